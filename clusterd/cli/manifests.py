"""Manifests of Kubernetes for a service: what each line is for, where that is not plain."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clusterd.cli.contained import APP, Contained

USER = 10001
"""The user of the image, by number: ``runAsNonRoot`` cannot look up names."""

RUN = "/run"
"""Its ``clusterd`` gets the run directory, as ``$XDG_RUNTIME_DIR`` says."""

FIRST_FREE_PORT = 1024
OLDEST = 25
"""The oldest Kubernetes, by its minor number, that the manifests can be for: ``autoscaling/v2`` and ``policy/v1``."""

EVICTION = 27
"""The one from which on a disruption budget can let pods go that are not ready anyway."""

SATURATION = "700m"
"""The share of busy workers that the autoscaler steers for."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the configuration cannot know.

    Attributes:
        image: the image, with its tag or digest.
        namespace: empty leaves it to whoever applies the manifests.
        replicas: pods at least.
        most: pods at most; 0 is no autoscaler.
        cpu: CPUs of a pod; empty asks for one a worker, or one.
        memory: of a pod.
        scrape: how Prometheus finds the pods: ``annotations``, ``podmonitor`` or ``none``.
        prometheus: the namespace that may scrape.
        version: of Kubernetes, the minor number of ``1.N``: the oldest that the manifests are for.
    """

    image: str
    namespace: str = ""
    replicas: int = 2
    most: int = 0
    cpu: str = ""
    memory: str = "512Mi"
    scrape: str = "annotations"
    prometheus: str = "monitoring"
    version: int = EVICTION


def manifests(one: Contained, wanted: Wanted, checksum: str = "") -> dict[str, str]:
    """File name to text, in the order in which they are applied.

    Args:
        checksum: of the configuration, for pods that no generator of ConfigMaps renames it for.
    """
    files = {
        "deployment.yaml": deployment(one, wanted, checksum),
        "poddisruptionbudget.yaml": disruption(one, wanted),
        "networkpolicy.yaml": policy(one, wanted),
    }
    if one.ports:
        files["service.yaml"] = service(one, wanted)
    if wanted.most:
        files["horizontalpodautoscaler.yaml"] = autoscaler(one, wanted)
    if wanted.scrape == "podmonitor":
        files["podmonitor.yaml"] = podmonitor(one, wanted)
    return files


def kustomization(one: Contained, wanted: Wanted, files: Sequence[str]) -> str:
    """The base's; its generator names the ConfigMap by what is in it, so that a change rolls the pods."""
    return f"""\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
{_namespace(wanted, 0)}resources:
{_items(sorted(files), 2)}\
configMapGenerator:
  - name: {one.name}-config
    files: [{_text(one.file)}]
"""


def configmap(one: Contained, wanted: Wanted) -> str:
    """The configuration as it is."""
    return f"""\
apiVersion: v1
kind: ConfigMap
metadata:
  name: {one.name}-config
{_namespace(wanted)}{_labels(one, 2)}\
data:
  {_text(one.file)}: {_block(one.text)}
"""


def deployment(one: Contained, wanted: Wanted, checksum: str = "") -> str:
    """The pods. Every number in it is the configuration's."""
    probe = readiness(one)
    cpu = wanted.cpu or str(one.workers or 1)
    ports = "".join(f"            - {{name: {name}, containerPort: {port}}}\n" for name, port in one.ports)
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {one.name}
{_namespace(wanted)}{_labels(one, 2)}\
spec:
  replicas: {wanted.replicas}
  revisionHistoryLimit: 5
  # A pod of a new version counts when it has been well for so long; until then no old one goes.
  minReadySeconds: {math.ceil(one.canary)}
  progressDeadlineSeconds: {one.startup + math.ceil(one.canary) + 300}
  strategy:
    rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}
  selector:
    matchLabels: {{app.kubernetes.io/name: {one.name}}}
  template:
    metadata:
{_labels(one, 6)}{_annotations(one, wanted, checksum)}\
    spec:
      # lame_duck, linger, drain_timeout and a second fit into it; clusterd looks that they do.
      terminationGracePeriodSeconds: {one.grace}
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext:
        runAsNonRoot: true
        runAsUser: {USER}
        runAsGroup: {USER}
        seccompProfile: {{type: RuntimeDefault}}
{_privileged_ports(one)}\
      topologySpreadConstraints:
        - topologyKey: kubernetes.io/hostname
          maxSkew: 1
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{app.kubernetes.io/name: {one.name}}}
      containers:
        - name: {one.name}
          image: {_text(wanted.image)}
          args:
{_arguments(one)}\
          env:
            - {{name: CLUSTERD_GRACE_PERIOD, value: {_text(one.grace_period)}}}
            - {{name: XDG_RUNTIME_DIR, value: {RUN}}}
          ports:
{ports}\
            - {{name: monitoring, containerPort: {one.monitoring}}}
          # Answered by the primary, so that a busy pool cannot fail them.
          startupProbe:
            httpGet: {{path: /startupz, port: monitoring}}
            periodSeconds: 1
            timeoutSeconds: 3
            # start_timeout twice: the import, then the workers' own start. Who never gets ready ends by itself before.
            failureThreshold: {one.startup}
          readinessProbe:
            httpGet: {{path: /readyz, port: monitoring}}
            periodSeconds: {probe.period}
            timeoutSeconds: 3
            failureThreshold: {probe.failures}
          # Fails only if the primary itself stands still; 200 also while it drains.
          livenessProbe:
            httpGet: {{path: /livez, port: monitoring}}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          # No preStop hook: on SIGTERM /readyz is 503 at once, and for lame_duck the pod goes on serving what is still
          # sent to it. A sleep before SIGTERM would do the same, but take its time from the grace period unseen.
          # An end that is not asked for leaves its reason, on one screen, for `kubectl describe pod`.
          terminationMessagePath: /dev/termination-log
          terminationMessagePolicy: FallbackToLogsOnError
          resources:
            # workers = "auto" follows the limit, also when it is changed in place.
            requests: {{cpu: {_text(cpu)}, memory: {_text(wanted.memory)}}}
            limits: {{cpu: {_text(cpu)}, memory: {_text(wanted.memory)}}}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {{drop: [ALL]}}
          volumeMounts:
            - {{name: config, mountPath: {_text(f"{APP}/{one.file}")}, subPath: {_text(one.file)}, readOnly: true}}
            - {{name: run, mountPath: {RUN}/clusterd}}
            - {{name: tmp, mountPath: /tmp}}
      volumes:
        - name: config
          configMap: {{name: {one.name}-config}}
        - name: run
          emptyDir: {{medium: Memory, sizeLimit: 16Mi}}
        - name: tmp
          emptyDir: {{}}
"""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Seconds between two questions, and how many failures make a pod unready."""

    period: int
    failures: int


def readiness(one: Contained) -> Readiness:
    """Often enough that a pod that stops is known for unready while it still serves: within its lame duck."""
    period = max(1, min(5, int(one.lame_duck // 2)))
    return Readiness(period, 2 if 2 * period <= one.lame_duck else 1)


def service(one: Contained, wanted: Wanted) -> str:
    ports = "".join(f"    - {{name: {name}, port: {port}, targetPort: {name}}}\n" for name, port in one.ports)
    return f"""\
apiVersion: v1
kind: Service
metadata:
  name: {one.name}
{_namespace(wanted)}{_labels(one, 2)}\
spec:
  selector: {{app.kubernetes.io/name: {one.name}}}
  ports:
{ports}"""


def disruption(one: Contained, wanted: Wanted) -> str:
    unready = """\
  # Pods that are not ready anyway must not keep a node from being drained.
  unhealthyPodEvictionPolicy: AlwaysAllow
"""
    return f"""\
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {one.name}
{_namespace(wanted)}{_labels(one, 2)}\
spec:
  maxUnavailable: 1
{unready if wanted.version >= EVICTION else ""}\
  selector:
    matchLabels: {{app.kubernetes.io/name: {one.name}}}
"""


def policy(one: Contained, wanted: Wanted) -> str:
    ports = "".join(f"        - {{port: {name}, protocol: TCP}}\n" for name, _ in one.ports)
    serving = f"    - ports:\n{ports}" if ports else ""
    return f"""\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {one.name}
{_namespace(wanted)}{_labels(one, 2)}\
spec:
  podSelector:
    matchLabels: {{app.kubernetes.io/name: {one.name}}}
  policyTypes: [Ingress]
  ingress:
{serving}\
    # Scrapes. The kubelet's probes come from the node, which no policy keeps out.
    - from:
        - namespaceSelector:
            matchLabels: {{kubernetes.io/metadata.name: {wanted.prometheus}}}
      ports:
        - {{port: monitoring, protocol: TCP}}
"""


def autoscaler(one: Contained, wanted: Wanted) -> str:
    """By how busy workers are. CPU would mislead: a pool that waits for a database is full at little of it."""
    return f"""\
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {one.name}
{_namespace(wanted)}{_labels(one, 2)}\
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: {one.name}}}
  minReplicas: {wanted.replicas}
  maxReplicas: {wanted.most}
  metrics:
    # The share of its workers that are busy. CPU would mislead: a pool that waits for a database is full at little of
    # it. Served by an adapter of the custom metrics API, such as prometheus-adapter.
    - type: Pods
      pods:
        metric:
          name: clusterd_pool_saturation_ratio
          selector:
            matchLabels: {{pool: {_text(one.pool)}}}
        target: {{type: AverageValue, averageValue: {SATURATION}}}
  behavior:
    scaleDown: {{stabilizationWindowSeconds: 300}}
"""


def podmonitor(one: Contained, wanted: Wanted) -> str:
    return f"""\
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {one.name}
{_namespace(wanted)}{_labels(one, 2)}\
spec:
  selector:
    matchLabels: {{app.kubernetes.io/name: {one.name}}}
  podMetricsEndpoints:
    - {{port: monitoring, path: /metrics, interval: 15s}}
"""


def _text(value: str) -> str:
    """A string of YAML, as one of JSON; but what JSON writes as two surrogates YAML reads as two characters."""
    told = json.dumps(value, ensure_ascii=False)
    return "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in told)


def _block(text: str) -> str:
    """Several lines as they are, where YAML can have them so; in a mapping that is indented by two."""
    plain = all(character.isprintable() or character in "\n\t" for character in text)
    if not plain or not text.strip():
        return _text(text)
    keep = "+" if text.endswith("\n\n") else "" if text.endswith("\n") else "-"
    lines = text.removesuffix("\n").split("\n")
    return "\n".join([f"|2{keep}", *(f"    {line}" if line else "" for line in lines)])


def _items(values: Sequence[str], indent: int) -> str:
    return "".join(f"{' ' * indent}- {value}\n" for value in values)


def _namespace(wanted: Wanted, indent: int = 2) -> str:
    return f"{' ' * indent}namespace: {wanted.namespace}\n" if wanted.namespace else ""


def _labels(one: Contained, indent: int) -> str:
    pad = " " * indent
    return f"{pad}labels:\n{pad}  app.kubernetes.io/name: {one.name}\n{pad}  app.kubernetes.io/managed-by: clusterd\n"


def _annotations(one: Contained, wanted: Wanted, checksum: str) -> str:
    lines = []
    if wanted.scrape == "annotations":
        lines += [
            'prometheus.io/scrape: "true"',
            f'prometheus.io/port: "{one.monitoring}"',
            "prometheus.io/path: /metrics",
        ]
    if checksum:
        lines.append(f"checksum/config: {checksum}")
    return "      annotations:\n" + "".join(f"        {line}\n" for line in lines) if lines else ""


def _arguments(one: Contained) -> str:
    """Each ``--set`` under the reason for it."""

    def lines() -> Iterator[str]:
        yield from (f"- {_text(word)}" for word in one.arguments[: len(one.arguments) - 2 * len(one.settings)])
        for setting in one.settings:
            yield from (f"# {setting.why}", '- "--set"', f"- {_text(str(setting))}")

    return "".join(f"            {line}\n" for line in lines())


def _privileged_ports(one: Contained) -> str:
    low = min((port for _, port in [*one.ports, ("monitoring", one.monitoring)]), default=FIRST_FREE_PORT)
    if low >= FIRST_FREE_PORT:
        return ""
    return f"""\
        # A port below {FIRST_FREE_PORT} without a capability: one of the sysctls that count as safe.
        sysctls:
          - {{name: net.ipv4.ip_unprivileged_port_start, value: "{low}"}}
"""
