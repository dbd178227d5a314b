"""Generations across a handover: what is in force, what a reload is trying out, and what it has taken away."""

import os
from collections.abc import Mapping

from ..config.schema import Config
from ..core.facts import View
from . import plans, resuming
from .editions import Editions, edition
from .handover import Handover, TrialState
from .listeners import Listeners, Standing


def describe(left: Handover, view: View, config: Config, tried: Mapping[int, Config], editions: Editions) -> None:
    """Write down the configuration in force, and those that are tried out.

    Args:
        left: where; its listening sockets are described already.
        view: the rules, which know the generation of each pool.
        config: the configuration in force.
        tried: those that are tried out, by generation.
        editions: with the certificates of each.
    """
    left.config = config
    for pool in view.pools:
        if (one := editions.get(pool.name, pool.generation)) is not None:
            left.tls[pool.name] = dict(one.plan.tls)
    for generation, one_tried in tried.items():
        brought = editions.of(generation)
        left.trials[generation].config = one_tried
        left.trials[generation].tls = {name: dict(one.plan.tls) for name, one in brought.items()}


def take_up(left: Handover, tried: dict[int, Config], editions: Editions, listeners: Listeners) -> dict[str, Standing]:
    """What a reload is trying out goes on being tried out.

    Args:
        left: what a predecessor of this process has left.
        tried, editions, listeners: to which it is added.

    Returns:
        All listening sockets by key.
    """
    trials = {generation: trial for generation, trial in left.trials.items() if trial.config is not None}
    sockets = listeners.take_up(
        {key: (resuming.opened(one), one.name, one.shared) for key, one in left.further.items()},
        {generation: trial.listeners for generation, trial in trials.items()},
        {generation: trial.config.listeners for generation, trial in trials.items() if trial.config is not None},
        left.leaving,
    )
    for generation, trial in trials.items():
        config = trial.config
        assert config is not None
        tried[generation] = config
        for name, tls in trial.tls.items():
            pool = config.pools[name]
            plan = plans.plan(name, pool, config, os.environ, left.nofile, generation, tls)
            editions.add(name, generation, edition(plan, pool, listeners.tried[generation]))
    return sockets


def sockets(left: Handover, listeners: Listeners) -> dict[int, str]:
    """Write down the listening sockets; the key of each, by its queue's identity."""
    keys = listeners.keys()
    named = {id(one.queue): key for key, one in keys.items()}
    left.listeners = {name: resuming.describe(one.opened, one.queue) for name, one in listeners.standing.items()}
    left.further = {
        key: resuming.describe(one.opened, one.queue) for key, one in keys.items() if key not in listeners.standing
    }
    left.leaving = {named[id(one.queue)]: generation for one, generation in listeners.leaving.items()}
    left.trials = {
        generation: TrialState(listeners={name: named[id(one.queue)] for name, one in tried.items()})
        for generation, tried in listeners.tried.items()
    }
    return named
