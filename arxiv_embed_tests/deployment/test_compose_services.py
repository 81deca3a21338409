"""docker-compose.yml, what it does: its own commands and health checks, as processes of this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import Request, urlopen

import psycopg2
import pytest
import yaml

from arxiv_embed.checkpoint.lock import FileLock
from arxiv_embed.stores.protocol import open_store
from arxiv_embed_tests.conftest import EXAMPLES, REPOSITORY
from arxiv_embed_tests.deployment import postgres
from arxiv_embed_tests.deployment.compose import COMPOSE_FILE, filled, here, seconds, start_order, written

PASSWORD = "it's a p@ss:w/rd #1"
PATIENCE_SECONDS = 180.0
LOCATION = {"repositoryLocationName": "arxiv_embed", "repositoryName": "__repository__", "jobName": "embed_pending"}
LAUNCH = """mutation ($parameters: ExecutionParams!) { launchRun(executionParams: $parameters) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } } } }"""
STATUS = "query ($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_until(holds: Callable[[], bool], what: str, printed: Callable[[], str] = str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end, f"waited in vain until {what}\n{printed()}"
        time.sleep(0.2)


@dataclass
class Stack:
    """The services as processes, each in a group of its own, as a container's are."""

    place: Path
    services: Mapping[str, Any]
    ports: Mapping[str, int]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    server: Any = None

    @property
    def home(self) -> Path:
        return self.place / "home"

    def environment(self, name: str) -> dict[str, str]:
        """What a container has: the image's PATH and the service's environment, nothing of this shell."""
        programs = [Path(sys.executable).parent, *([self.server.bin_path] if self.server else [])]
        path = os.pathsep.join([*map(str, programs), os.environ["PATH"]])
        return {"PATH": path, "HOME": str(self.place), "HF_HUB_OFFLINE": "1", **self.services[name]["environment"]}

    def start(self, name: str, database: Path) -> None:
        service = self.services[name]
        options: dict[str, Any] = {"cwd": service.get("working_dir")}
        if name == "postgres":
            self.server = postgres.set_up(database, service["environment"])
            command, options["user"] = postgres.command(self.server, self.ports[name]), self.server.system_user
        else:
            command = service["command"]
        with (self.place / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command,
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Dagster gives SIGTERM what SIGINT has, which a shell's background ignores.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
                **options,
            )
        wait_until(lambda: self.is_healthy(name), f"{name} was healthy", lambda: self.printed(name))

    def is_healthy(self, name: str) -> bool:
        assert self.processes[name].poll() is None, self.printed(name)
        check = self.services[name]["healthcheck"]["test"][1:]
        checked = subprocess.run(check, env=self.environment(name), capture_output=True, timeout=60, check=False)
        return checked.returncode == 0

    def stop(self, name: str) -> int:
        """As `docker compose stop` does: the service's signal, to its whole group where its init is told to; its exit
        code, or `TimeoutExpired` where the engine would lose patience and kill it."""
        service, process = self.services[name], self.processes[name]
        number = signal.Signals[service.get("stop_signal", "SIGTERM")]
        if service["environment"].get("TINI_KILL_PROCESS_GROUP"):
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        return process.wait(seconds(service["stop_grace_period"]))

    def is_gone(self) -> bool:
        """Whether every group is empty."""
        for process in self.processes.values():
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                continue
            return False
        return True

    def printed(self, name: str) -> str:
        return f"{name}:\n" + (self.place / f"{name}.log").read_text(errors="replace")[-4000:]

    def kill(self) -> None:
        """What is left of every group."""
        for process in self.processes.values():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            process.wait()

    def ask(self, query: str, **variables: Any) -> Any:
        """The webserver's answer to a GraphQL query."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        url = f"http://127.0.0.1:{self.ports['webserver']}/graphql"
        with urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=60) as answer:
            content = json.load(answer)
        assert "errors" not in content, content
        return content["data"]

    def launch(self) -> str:
        parameters = {"selector": LOCATION, "runConfigData": {"resources": {"embedding": {"config": {}}}}}
        launched = self.ask(LAUNCH, parameters=parameters)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run_id: str = launched["run"]["runId"]
        return run_id

    def status(self, run_id: str) -> str:
        status: str = self.ask(STATUS, run=run_id)["runOrError"]["status"]
        return status

    def stored_status(self, run_id: str) -> str:
        """What the database says, whoever else is down."""
        with closing(
            psycopg2.connect(
                host="127.0.0.1",
                port=self.ports["postgres"],
                user="arxiv_embed",
                dbname="arxiv_embed",
                password=PASSWORD,
            )
        ) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT status FROM runs WHERE run_id = %s", (run_id,))
            [(status,)] = cursor.fetchall()
            return str(status)


@pytest.fixture
def stack(tmp_path: Path, small_folder: Path, tiny_model: Path) -> Iterator[Stack]:
    """The file's services, with nothing replaced but hosts, ports and folders."""
    ports = {name: free_port() for name in ("postgres", "code", "webserver")}
    names = {
        "0.0.0.0": "127.0.0.1",
        "postgres": "127.0.0.1",
        "code": "127.0.0.1",
        "5432": str(ports["postgres"]),
        "4000": str(ports["code"]),
        "3000": str(ports["webserver"]),
        "/opt/dagster": str(tmp_path / "dagster"),
        "/var/lib/arxiv_embed": str(tmp_path / "home"),
        "/metadata": str(small_folder),
    }
    variables = {
        "POSTGRES_PASSWORD": PASSWORD,
        "ARXIV_EMBED_MODEL": str(tiny_model),
        "ARXIV_EMBED_DEVICES": "cpu:1",
    }
    # As the Dockerfile lays them out.
    (tmp_path / "dagster").mkdir()
    shutil.copy(REPOSITORY / "dagster.yaml", tmp_path / "dagster")
    workspace = here(yaml.safe_load((REPOSITORY / "docker" / "workspace.yaml").read_text()), names)
    workspace["load_from"][0]["grpc_server"]["port"] = ports["code"]
    (tmp_path / "dagster" / "workspace.yaml").write_text(yaml.safe_dump(workspace))
    (tmp_path / "home").mkdir()
    made = Stack(tmp_path, filled(here(written(COMPOSE_FILE)["services"], names), variables), ports)
    with ExitStack() as at_end:
        at_end.callback(made.kill)
        yield made


def test_the_services_start_embed_a_folder_and_end_in_order(stack: Stack, small_folder: Path) -> None:
    order = start_order(stack.services)
    # Not below `tmp_path`, which only its owner may enter: the server has a user of its own where tests are root.
    with TemporaryDirectory(prefix="postgres-") as database:
        for name in order:
            stack.start(name, Path(database))

        first = stack.launch()
        wait_until(lambda: stack.status(first) in ("SUCCESS", "FAILURE"), "the first run had ended")
        assert stack.status(first) == "SUCCESS", stack.printed("code")
        with open_store(str(stack.home / "stores" / "papers")) as store:
            [space] = store.spaces()
            assert store.count(space.fingerprint)[0] == 11

        # A second run that cannot go on, as its device is taken, so that the stop finds it at work.
        lines = (EXAMPLES / "kaggle-2007.jsonl").read_bytes().splitlines(keepends=True)
        (small_folder / "third.jsonl").write_bytes(b"".join(lines[11:15]))
        with FileLock(stack.home / "devices" / "cpu:0.lock", "Device cpu:0"):
            second = stack.launch()
            wait_until((stack.home / "runs" / second / "progress.jsonl").exists, "the second run was at work")
            ends = {name: stack.stop(name) for name in reversed(order) if name != "postgres"}
        assert stack.stored_status(second) in ("FAILURE", "CANCELED")
        ends["postgres"] = stack.stop("postgres")

    assert ends == dict.fromkeys(ends, 0)
    assert sorted(path.name for path in (stack.place / "dagster").iterdir()) == ["dagster.yaml", "workspace.yaml"]
    wait_until(stack.is_gone, "no process of any service was left")
