"""Certificates from files, as gRPC wants them."""

from pathlib import Path

import grpc

from hedge.common.errors import BadInput


def read_pem(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    if b"-----BEGIN " not in data:
        raise BadInput(f"{path} is not PEM")
    return data


def channel_credentials(ca: Path, cert: Path | None, key: Path | None) -> grpc.ChannelCredentials:
    """The client's side: whom to trust, and who it is where the server asks (mTLS)."""
    _pair(cert, key)
    return grpc.ssl_channel_credentials(read_pem(ca), _maybe(key), _maybe(cert))


def server_credentials(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """The server's side; with `client_ca` only clients with a certificate of that authority are let
    in (mTLS).
    """
    return grpc.ssl_server_credentials(
        [(read_pem(key), read_pem(cert))],
        _maybe(client_ca),
        require_client_auth=client_ca is not None,
    )


def _maybe(path: Path | None) -> bytes | None:
    return None if path is None else read_pem(path)


def _pair(cert: Path | None, key: Path | None) -> None:
    if (cert is None) != (key is None):
        raise BadInput("--tls-cert and --tls-key belong together")
