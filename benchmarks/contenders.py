"""Who is measured: how each one is started in front of the upstream. A new contender is one recipe.

Every recipe takes an empty folder of its own and the upstream's port, and says what to run, where
it listens, what it wants to be told with a call, and when it is ready. All get the same calls.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import layout, peers
from benchmarks.children import clean_environment
from benchmarks.probe import free_port

KEY = "wv-bench-0123456789abcdef0123456789abcdef"
BEARER = {"Authorization": f"Bearer {KEY}"}


@dataclass(frozen=True, slots=True)
class Contender:
    """A server to start and to call."""

    name: str
    argv: tuple[str, ...]
    port: int
    env: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=lambda: BEARER)
    live_path: str | None = None
    ready_path: str | None = None
    start_timeout_s: float = 30.0
    keeps_answers: bool = False


Recipe = Callable[[Path, int], Contender]


class CannotTakePartError(Exception):
    """A contender is not there on this machine; the message says why."""


def nginx(folder: Path, upstream_port: int) -> Contender:
    """The plain reverse proxy: one worker, keep-alive to the upstream, nothing buffered."""
    program = _nginx_program()
    if program is None:
        raise CannotTakePartError("nginx was not found")
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX % {"folder": folder, "port": port, "upstream": upstream_port})
    return Contender("nginx", (program, "-p", str(folder), "-c", str(configuration)), port)


def relay(folder: Path, upstream_port: int) -> Contender:
    """The bare byte relay of this package."""
    del folder
    port = free_port()
    argv = (sys.executable, "-m", "benchmarks.relay", str(port), str(upstream_port))
    return Contender("relay", argv, port, env=python_environment())


def windvane(folder: Path, upstream_port: int) -> Contender:
    """The gateway as ``windvane serve`` starts it: everything on."""
    port = free_port()
    configuration = folder / "windvane.yaml"
    configuration.write_text(
        f"providers:\n  mistral:\n    api_base: http://127.0.0.1:{upstream_port}/v1\n"
    )
    serve = ("serve", "--config", str(configuration), "--port", str(port))
    keys = {"MISTRAL_API_KEY": "bench", "ALLOWED_API_KEYS": KEY}
    return Contender(
        "windvane",
        (sys.executable, "-m", "windvane", *serve),
        port,
        env={**python_environment(), **keys, "WINDVANE_DATA_DIR": str(folder / "data")},
        live_path="/livez",
        ready_path="/readyz",
    )


def windvane_cache(folder: Path, upstream_port: int) -> Contender:
    """The same with its cache on, which is off unless somebody says whose answers may be shared."""
    plain = windvane(folder, upstream_port)
    with (folder / "windvane.yaml").open("a") as configuration:
        configuration.write("cache:\n  scope: key\n")
    return replace(plain, name="windvane-cache", keeps_answers=True)


def windvane_limits(folder: Path, upstream_port: int) -> Contender:
    """The same, its key under six budgets and three rates, which are too wide to refuse anything."""
    plain = windvane(folder, upstream_port)
    with (folder / "windvane.yaml").open("a") as configuration:
        configuration.write(LIMITS % {"key": KEY})
    env = {name: value for name, value in plain.env.items() if name != "ALLOWED_API_KEYS"}
    return replace(plain, name="windvane-limits", env=env)


def by_hand(folder: Path, upstream_port: int) -> Contender:
    """The gateway that one writes by hand in an afternoon, in an environment of its own."""
    del folder
    port = free_port()
    script = str(layout.ROOT / "benchmarks" / "by_hand.py")
    argv = (str(peers.by_hand_python()), "-P", script, str(port), str(upstream_port), KEY)
    return Contender("by-hand", argv, port)


def litellm(folder: Path, upstream_port: int) -> Contender:
    """LiteLLM's proxy with one model, a master key, and nothing else switched on."""
    program = peers.litellm_command()
    port = free_port()
    configuration = folder / "litellm.yaml"
    configuration.write_text(LITELLM % {"upstream": upstream_port, "key": KEY})
    return Contender(
        "litellm",
        (str(program), "--config", str(configuration), "--port", str(port), "--num_workers", "1"),
        port,
        env=LITELLM_ENVIRONMENT,
        live_path="/health/liveliness",
        start_timeout_s=90.0,
    )


def portkey(folder: Path, upstream_port: int) -> Contender:
    """Portkey's gateway, told by headers where its provider is."""
    del folder
    script = peers.portkey_script()
    port = free_port()
    told = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}/v1",
    }
    argv = (shutil.which("node") or "node", str(script), "--headless", f"--port={port}")
    return Contender("portkey", argv, port, headers={**BEARER, **told}, live_path="/")


RECIPES: Mapping[str, Recipe] = {
    "nginx": nginx,
    "relay": relay,
    "windvane": windvane,
    "windvane-limits": windvane_limits,
    "windvane-cache": windvane_cache,
    "by-hand": by_hand,
    "litellm": litellm,
    "portkey": portkey,
}
PEERS = ("litellm", "portkey")


def plain_proxy() -> str:
    """Name the plain proxy that stands beside the gateway on this machine."""
    return "nginx" if _nginx_program() else "relay"


def python_environment() -> dict[str, str]:
    """Make a child Python find this repository, with its byte code kept warm under .bench."""
    return {
        "PYTHONPATH": os.pathsep.join((str(layout.SOURCE), str(layout.ROOT))),
        "PYTHONPYCACHEPREFIX": str(layout.BYTE_CODE),
    }


def run_python(*arguments: str, timeout_s: float) -> str:
    """What a fresh interpreter of this repository prints.

    Raises subprocess.CalledProcessError and subprocess.TimeoutExpired.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**clean_environment(), **python_environment()},
        cwd=layout.BENCH,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=True,
    )
    return done.stdout


def _nginx_program() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


NGINX = """
daemon off;
master_process on;
worker_processes 1;
pid %(folder)s/nginx.pid;
error_log %(folder)s/error.log crit;
events { worker_connections 8192; }
http {
    access_log off;
    client_body_temp_path %(folder)s/body;
    proxy_temp_path %(folder)s/proxy;
    fastcgi_temp_path %(folder)s/fastcgi;
    uwsgi_temp_path %(folder)s/uwsgi;
    scgi_temp_path %(folder)s/scgi;
    client_max_body_size 16m;
    client_body_buffer_size 256k;
    keepalive_requests 100000000;
    upstream up { server 127.0.0.1:%(upstream)d; keepalive 1024; keepalive_requests 100000000; }
    server {
        listen 127.0.0.1:%(port)d backlog=4096;
        location / {
            proxy_pass http://up;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }
    }
}
"""

LIMITS = """
auth:
  keys:
    - {key: %(key)s, name: bench, team: bench}
budgets:
  global: {daily: 1000000, monthly: 10000000}
  "team:*": {daily: 1000000, monthly: 10000000}
  "key:*": {daily: 1000000, monthly: 10000000}
rates:
  "key:*": {requests_per_minute: 1000000, tokens_per_minute: 1000000000, concurrency: 10000}
"""

LITELLM = """
model_list:
  - model_name: auto
    litellm_params:
      model: openai/bench
      api_base: http://127.0.0.1:%(upstream)d/v1
      api_key: bench
general_settings:
  master_key: %(key)s
"""

LITELLM_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOG": "ERROR",
    "DISABLE_ADMIN_UI": "True",
}
