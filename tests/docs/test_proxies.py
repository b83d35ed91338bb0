"""The proxies of the documentation, where they are installed: what they pass on, what they hold off, and streams."""

import asyncio
import contextlib
import shutil
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from agentbus import Coordinator
from agentbus.provision.certificates import new_authority, new_server_certificate
from agentbus.provision.nats_server import NatsServer
from support.documentation import HOW_TO, marked
from support.free_ports import free_port
from support.harness import BOUND_S, process
from support.mcp_harness import HttpServer, http_server, settle
from support.raw_http import TOKEN

pytestmark = pytest.mark.posix("not tried on Windows")

NAME = "localhost"
"""Stands for `mcp.example.com`."""
PAGE = HOW_TO / "mcp-proxy.md"
NGINX = """daemon off; error_log stderr; pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {page}
}}
"""


def _config(kind: str, folder: Path, port: int, upstream: str) -> str:
    """The page's configuration with the ports and files of a test."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    if kind == "nginx":
        [block] = marked("configuration of nginx", PAGE)
        text = block.text.replace("listen 443", f"listen 127.0.0.1:{port}")
        text = text.replace("/etc/ssl/mcp.example.com.pem", str(certificate))
        text = text.replace("/etc/ssl/mcp.example.com-key.pem", str(key))
        text = NGINX.format(folder=folder, page=text)
    else:
        [options], [site] = marked("global options of Caddy", PAGE), marked("configuration of Caddy", PAGE)
        no_network = f"{{\n    admin off\n    auto_https off\n    storage file_system {folder}/caddy\n"
        text = options.text.replace("{\n", no_network, 1) + site.text.replace(
            "mcp.example.com {\n",
            f"https://mcp.example.com:{port} {{\n    bind 127.0.0.1\n    tls {certificate} {key}\n",
        )
    assert "127.0.0.1:8765" in text
    return text.replace("127.0.0.1:8765", upstream).replace("mcp.example.com", NAME)


@asynccontextmanager
async def proxied(kind: str, folder: Path, mcp: HttpServer) -> AsyncGenerator[tuple[str, httpx2.AsyncClient]]:
    """The URL at the proxy, and a client that trusts its certificate."""
    authority = new_authority("Test CA")
    pair = new_server_certificate(authority, [NAME, "127.0.0.1"])
    for name, content in {"ca.pem": authority.certificate, "cert.pem": pair.certificate, "key.pem": pair.key}.items():
        (folder / name).write_bytes(content)
    port = free_port()
    config = folder / "proxy.conf"
    config.write_text(_config(kind, folder, port, mcp.base.removeprefix("http://")), encoding="utf-8")
    argv = {
        "nginx": ["nginx", "-p", str(folder), "-c", str(config)],
        "caddy": ["caddy", "run", "--adapter", "caddyfile", "--config", str(config)],
    }[kind]
    trusted = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with process(argv, folder / "proxy.log"):
        async with httpx2.AsyncClient(verify=trusted, headers=headers, timeout=BOUND_S) as http:
            async with asyncio.timeout(BOUND_S):
                while True:
                    try:
                        await http.get(f"https://{NAME}:{port}/")
                        break
                    except httpx2.ConnectError:
                        await asyncio.sleep(0.05)
            yield f"https://{NAME}:{port}/mcp", http


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
async def test_a_client_works_through_the_proxy_and_its_stream_stays_open(
    kind: str, server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    if shutil.which(kind) is None:
        pytest.skip(f"{kind} is not installed")
    token_file = tmp_path / "mcp.token"
    token_file.write_text(TOKEN, encoding="utf-8")
    token_file.chmod(0o600)
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    args = ["--nats-url", server.url, "--token-file", str(token_file), "--max-connections-per-address", "900"]
    async with (
        http_server(tmp_path / "mcp.log", *args) as mcp,
        proxied(kind, tmp_path, mcp) as (url, http),
        Client(streamable_http_client(url, http_client=http)) as client,
        client.listen(resource_subscriptions=["agentbus://tasks/a"]) as events,
    ):
        watching = asyncio.create_task(client.call_tool("watch_results", {"task_ids": ["a"], "timeout_seconds": 60}))
        await settle(coordinator, "a")
        async with asyncio.timeout(BOUND_S):
            await anext(aiter(events))
            assert not (await watching).is_error
        bare = await http.get(url, headers={"Authorization": ""})
        assert (bare.status_code, bare.content) == (401, b"")
        assert (await http.get(url.removesuffix("/mcp") + "/healthz")).status_code == 404
        with contextlib.suppress(httpx2.TransportError):  # it may be cut off before the client has read the answer
            assert (await http.post(url, content=b"x" * (10 * 1024 * 1024))).status_code == 413
        forged = await http.get(url, headers={"Authorization": "", "X-Forwarded-For": "127.0.0.1"})
        assert forged.status_code == 401
