"""From the configuration to the numbers that the core goes by."""

from clusterd.config.schema import Config, Pool
from clusterd.core.policy import (
    OnGiveUp,
    PoolPolicy,
    RecyclePolicy,
    ReloadPolicy,
    RestartPolicy,
    ServicePolicy,
    StopPolicy,
)


def policy(config: Config, *, cpus: int) -> ServicePolicy:
    """The policy of the whole service.

    Args:
        config: a loaded configuration.
        cpus: how many workers ``workers = "auto"`` is, 1 or more.
    """
    shutdown = config.shutdown
    return ServicePolicy(
        pools=tuple(pool_policy(name, pool, cpus=cpus) for name, pool in config.pools.items()),
        stop=StopPolicy(
            lame_duck=shutdown.lame_duck,
            linger=shutdown.linger,
            drain_timeout=shutdown.drain_timeout,
        ),
    )


def as_many_as(cpus: int, pool: Pool) -> int:
    """How many workers ``workers = "auto"`` is: no more than the CPUs that they may run on.

    Args:
        cpus: that the service may keep busy.
    """
    listed = len(pool.cpu_affinity) if pool.cpu_affinity != "auto" else 0
    return min(cpus, listed or cpus)


def pool_policy(name: str, pool: Pool, *, cpus: int) -> PoolPolicy:
    """The policy of one pool; parameters as of :func:`policy`."""
    workers = as_many_as(cpus, pool) if pool.workers == "auto" else pool.workers
    restart = pool.restart
    return PoolPolicy(
        name=name,
        workers=workers,
        # With "auto" the number of workers is the machine's: more than all of them can never be waited for.
        min_ready=min(pool.min_ready, workers),
        spares=pool.spares,
        start_timeout=pool.start_timeout,
        heartbeat_timeout=pool.health.heartbeat_timeout,
        restart=RestartPolicy(
            rapid_exit=restart.rapid_exit,
            initial_delay=restart.initial_delay,
            max_delay=restart.max_delay,
            give_up_after=restart.give_up_after,
            on_give_up=OnGiveUp(restart.on_give_up),
            healthy_after=restart.healthy_after,
        ),
        recycle=RecyclePolicy(
            max_requests=pool.recycle.max_requests,
            jitter=pool.recycle.max_requests_jitter,
            max_age=pool.recycle.max_age,
            max_memory=pool.recycle.max_memory,
        ),
        reload=ReloadPolicy(surge=pool.reload.surge, canary=pool.reload.canary),
    )
