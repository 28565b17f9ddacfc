"""The same servicer behind Ray Serve's gRPC proxy: where there are more machines than one, Ray
places the replicas.

A stream stays on the replica it began on, so a session stays where its keys and values are.
"""

import argparse
import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from hedge.cloud_server.serving.access import Access
from hedge.cloud_server.serving.limits import Limits
from hedge.common.command import say
from hedge.common.errors import BadInput
from hedge.v1 import hedge_pb2 as pb

# Ray would send usage reports, and its workers' lines would stand between ours.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")

APPLICATION = "hedge"


class Verifier:
    """A replica: the LLM, and the servicer over it. Errors become gRPC statuses here: Ray knows no
    interceptors.
    """

    # Ray awaits it.
    async def __init__(self, args: argparse.Namespace, limits: Limits) -> None:  # type: ignore[misc]
        from hedge.cloud_server.serving.backend import open_backend
        from hedge.cloud_server.serving.metrics import CloudMetrics
        from hedge.cloud_server.serving.servicer import Servicer

        self._stack = AsyncExitStack()
        metrics = CloudMetrics()
        backend = await self._stack.enter_async_context(open_backend(args, metrics))
        self._failed = asyncio.ensure_future(backend.failed())
        self._servicer = Servicer(
            backend.lm, backend.runner, limits, Access(args.tokens), metrics, backend.exactness
        )

    async def __del__(self) -> None:
        """Ray awaits it, once, before a replica's process ends."""
        await self._stack.aclose()

    def check_health(self) -> None:
        """Ray starts another replica in the place of one whose engine has died."""
        if self._failed.done():
            raise RuntimeError("the engine has died")

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, grpc_context: Any
    ) -> pb.ServerInfo:
        try:
            return await self._servicer.GetServerInfo(request, grpc_context)
        except Exception as error:
            _refuse(error, grpc_context)
            raise

    async def Generate(
        self, request_stream: Any, grpc_context: Any
    ) -> AsyncIterator[pb.ServerMessage]:
        try:
            async for message in self._servicer.Generate(request_stream, grpc_context):
                yield message
        except Exception as error:
            _refuse(error, grpc_context)
            raise


def _refuse(error: Exception, context: Any) -> None:
    """Ray takes the status from the context only when something is raised."""
    from hedge.cloud_server.serving.servicer import describe_error, to_status

    context.set_code(to_status(error))
    context.set_details(describe_error(error))


def deploy(args: argparse.Namespace, limits: Limits) -> None:
    """Runs the deployment until SIGINT or SIGTERM: on the cluster that RAY_ADDRESS names, else on
    this machine alone.
    """
    try:
        import ray
        from ray import serve
        from ray.serve.config import HTTPOptions, gRPCOptions
    except ImportError:
        raise BadInput("Ray is not installed: pip install 'hedge-hlm[ray]'") from None
    # A replica computes at its own pace.
    args.emulate = None
    args.tokens = args.tokens and args.tokens.resolve()
    ray.init(
        address=os.environ.get("RAY_ADDRESS"),
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    try:
        serve.start(
            http_options=HTTPOptions(host="127.0.0.1", port=args.http_port),
            grpc_options=gRPCOptions(
                port=args.port,
                grpc_servicer_functions=["hedge.v1.hedge_pb2_grpc.add_HedgeServicer_to_server"],
            ),
        )
        deployment: Any = serve.deployment(
            Verifier,
            name="verifier",
            max_ongoing_requests=limits.sessions or 10**6,
            ray_actor_options={"num_gpus": _gpus(args), "num_cpus": args.cpus},
            **_scale(args),
        )
        serve.run(deployment.bind(args, limits), name=APPLICATION)
        say(f"hedge-cloud: {args.replicas} replicas, listening on 127.0.0.1:{args.port}")
        stopped = threading.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda *_: stopped.set())
        stopped.wait()
        serve.shutdown()
    finally:
        ray.shutdown()


def _gpus(args: argparse.Namespace) -> float:
    """Of a replica, by what its engine is asked for."""
    if args.gpus is not None:
        return float(args.gpus)
    if args.engine == "vllm":
        options = dict(args.engine_option)
        return float(
            options.get("tensor_parallel_size", 1) * options.get("pipeline_parallel_size", 1)
        )
    return float((args.device or "cpu") != "cpu" or args.gpu_layers > 0)


def _scale(args: argparse.Namespace) -> dict[str, Any]:
    if args.max_replicas is None:
        return {"num_replicas": args.replicas}
    ongoing = {"target_ongoing_requests": args.streams_per_replica}
    return {
        "autoscaling_config": {
            **ongoing,
            "min_replicas": args.replicas,
            "max_replicas": args.max_replicas,
        }
    }
