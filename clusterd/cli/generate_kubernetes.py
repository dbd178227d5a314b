"""``clusterd generate kubernetes``: the manifests of one configuration."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import click

from clusterd.cli import contained
from clusterd.cli.configure import config_option, set_option
from clusterd.cli.generate import directory_option, emit, force_option
from clusterd.cli.manifests import EVICTION, OLDEST, Wanted, configmap, kustomization, manifests

_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def _quantity(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value and not _QUANTITY.fullmatch(value):
        raise click.BadParameter(f"expected a quantity such as 2, 500m or 512Mi, found {value!r:.80}")
    return value


def _label(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value and not _NAMESPACE.fullmatch(value):
        raise click.BadParameter(f"expected the name of a namespace, found {value!r:.80}")
    return value


def _version(context: click.Context, parameter: click.Parameter, value: str) -> int:
    found = re.fullmatch(r"v?1\.([0-9]{1,3})(\..*)?", value)
    if not found or int(found[1]) < OLDEST:
        raise click.BadParameter(f"expected a version from 1.{OLDEST} on, found {value!r:.80}")
    return int(found[1])


@click.command()
@config_option
@set_option
@click.option("--image", required=True, metavar="IMAGE", help="The application's image, with its tag or digest.")
@click.option("--namespace", metavar="NAME", default="", callback=_label, help="Else that of whoever applies them.")
@click.option("--replicas", type=click.IntRange(min=1), default=2, show_default=True, help="Pods, at least.")
@click.option("--max-replicas", type=int, default=0, help="Pods at most: an autoscaler goes by how busy workers are.")
@click.option("--cpu", metavar="N", default="", callback=_quantity, help="CPUs a pod; else one a worker, or 1.")
@click.option("--memory", metavar="SIZE", default="512Mi", show_default=True, callback=_quantity, help="Memory a pod.")
@click.option(
    "--scrape",
    type=click.Choice(("annotations", "podmonitor", "none")),
    default="annotations",
    show_default=True,
    help="How Prometheus finds the pods.",
)
@click.option(
    "--prometheus",
    metavar="NAMESPACE",
    default="monitoring",
    show_default=True,
    callback=_label,
    help="Who may scrape.",
)
@click.option(
    "--kubernetes",
    "version",
    default=f"1.{EVICTION}",
    show_default=True,
    metavar="1.N",
    callback=_version,
    help="The oldest version that is to take them.",
)
@directory_option
@force_option
def kubernetes(
    config_path: str | None,
    sets: Sequence[str],
    max_replicas: int,
    directory: str | None,
    force: bool,
    **options: Any,
) -> None:
    """Print the manifests of a configuration, or with --directory write a base for kustomize."""
    if max_replicas and max_replicas < options["replicas"]:
        raise click.BadParameter(f"is below --replicas {options['replicas']}", param_hint="--max-replicas")
    one = contained.read(config_path, sets, balanced=True)
    wanted = Wanted(most=max_replicas, **options)
    if directory is None:
        checksum = hashlib.sha256(one.text.encode()).hexdigest()
        documents = [configmap(one, wanted), *manifests(one, wanted, checksum).values()]
        emit({"kubernetes.yaml": "---\n".join(documents)}, None, force)
        return
    files = manifests(one, wanted)
    emit({"kustomization.yaml": kustomization(one, wanted, list(files)), one.file: one.text, **files}, directory, force)
