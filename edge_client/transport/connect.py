"""Connects to the first server that answers and can verify this device's tokens."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from hedge.common.errors import BadInput, Disconnected
from hedge.common.model import LanguageModel
from hedge.common.rpc import LOOPBACK
from hedge.common.tls import channel_credentials
from hedge.edge_client.config import CloudConfig
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.edge_client.transport.messages import check_server, file_differences


@asynccontextmanager
async def reached(
    cloud: CloudConfig, slm: LanguageModel, notify: Callable[[str], None]
) -> AsyncIterator[GrpcLink]:
    """A link that is closed at the end. `notify` is told, a line each, what the two models' files
    say otherwise.

    Disconnected when nobody answers, Incompatible for a server that cannot judge this model's
    tokens.
    """
    credentials = (
        None
        if cloud.tls_ca is None
        else channel_credentials(cloud.tls_ca, cloud.tls_cert, cloud.tls_key)
    )
    token = None if cloud.token_file is None else read_token(cloud, cloud.token_file)
    async with AsyncExitStack() as stack:
        try:
            link = await stack.enter_async_context(GrpcLink(cloud.addresses, credentials, token))
        except Disconnected as error:
            raise Disconnected(
                f"{error}; `hedge doctor` says what to do", error.retry_after
            ) from None
        check_server(link.info, slm)
        for line in file_differences(link.info, slm):
            notify(line)
        yield link


def read_token(cloud: CloudConfig, file: Path) -> str:
    """The token by which the cloud knows this device; it never leaves in plaintext."""
    if cloud.insecure and not all(
        address.rpartition(":")[0] in LOOPBACK for address in cloud.addresses
    ):
        raise BadInput(
            f"a token would be readable on the way to {','.join(cloud.addresses)}: --token-file "
            "needs --tls-ca"
        )
    try:
        token = file.read_text("ascii").strip()
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise BadInput(f"{file} does not hold one token")
    return token
