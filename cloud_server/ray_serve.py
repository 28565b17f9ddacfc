"""The same servicer behind Ray Serve's gRPC proxy: where there are more machines than one, Ray places the replicas.

A stream stays on the replica it began on, so a session stays where its keys and values are.
"""

import argparse
import os
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from hedge.v1 import hedge_pb2 as pb

from cloud_server.access import Access
from cloud_server.limits import Limits
from common.command import model_options, say
from common.errors import BadInput
from common.model_options import ModelOptions

# Ray would send usage reports, and its workers' lines would stand between ours.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")

APPLICATION = "hedge"


class Verifier:
    """A replica: a model, a pool, and the servicer over them. Errors become gRPC statuses here: Ray knows no interceptors."""

    def __init__(
        self,
        llm: str,
        options: ModelOptions,
        kv_bytes: int,
        positions: int,
        reproducible: bool | None,
        prefix_sharing: bool,
        limits: Limits,
        tokens: Path | None,
    ) -> None:
        from cloud_server.batcher import Batcher
        from cloud_server.engine import engine_of
        from cloud_server.self_check import checked
        from cloud_server.servicer import Servicer
        from common.model import load

        lm = load(llm, "llm", options)
        engine = engine_of(lm, kv_bytes, positions, reproducible, prefix_sharing=prefix_sharing)
        exactness = checked(engine, lm, positions, reproducible)
        self._servicer = Servicer(lm, Batcher(engine, positions), limits, Access(tokens), exactness=exactness)

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, grpc_context: Any) -> pb.ServerInfo:  # noqa: N802
        try:
            return await self._servicer.GetServerInfo(request, grpc_context)
        except Exception as error:
            _refuse(error, grpc_context)
            raise

    async def Generate(self, request_stream: Any, grpc_context: Any) -> AsyncIterator[pb.ServerMessage]:  # noqa: N802
        try:
            async for message in self._servicer.Generate(request_stream, grpc_context):
                yield message
        except Exception as error:
            _refuse(error, grpc_context)
            raise


def _refuse(error: Exception, context: Any) -> None:
    """Ray takes the status from the context only when something is raised."""
    from cloud_server.servicer import line_of, status_of

    context.set_code(status_of(error))
    context.set_details(line_of(error))


def deploy(args: argparse.Namespace, limits: Limits) -> None:
    """Runs the deployment until SIGINT or SIGTERM: on the cluster that RAY_ADDRESS names, else on this machine alone."""
    try:
        import ray
        from ray import serve
        from ray.serve.config import HTTPOptions, gRPCOptions
    except ImportError:
        raise BadInput("Ray is not installed: pip install 'hedge-hlm[ray]'") from None
    ray.init(address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        serve.start(
            http_options=HTTPOptions(host="127.0.0.1", port=args.http_port),
            grpc_options=gRPCOptions(
                port=args.port, grpc_servicer_functions=["hedge.v1.hedge_pb2_grpc.add_HedgeServicer_to_server"]
            ),
        )
        deployment: Any = serve.deployment(
            Verifier,
            name="verifier",
            max_ongoing_requests=limits.sessions or 10**6,
            ray_actor_options={"num_gpus": int((args.device or "cpu") != "cpu" or args.gpu_layers > 0), "num_cpus": args.cpus},
            **_scale(args),
        )
        serve.run(
            deployment.bind(
                args.llm,
                model_options(args, args.llm),
                args.kv_bytes,
                args.batch_positions,
                args.reproducible,
                args.prefix_sharing,
                limits,
                args.tokens and args.tokens.resolve(),
            ),
            name=APPLICATION,
        )
        say(f"hedge-cloud: {args.replicas} replicas, listening on 127.0.0.1:{args.port}")
        stopped = threading.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda *_: stopped.set())
        stopped.wait()
        serve.shutdown()
    finally:
        ray.shutdown()


def _scale(args: argparse.Namespace) -> dict[str, Any]:
    if args.max_replicas is None:
        return {"num_replicas": args.replicas}
    ongoing = {"target_ongoing_requests": args.streams_per_replica}
    return {"autoscaling_config": {**ongoing, "min_replicas": args.replicas, "max_replicas": args.max_replicas}}
