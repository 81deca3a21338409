"""docker-compose.yml's services as processes of this machine: its own commands, environments and health checks, with
nothing replaced but hosts, ports and folders."""

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
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import Request, urlopen

import psycopg2
import yaml

from arxiv_embed_tests.conftest import REPOSITORY
from arxiv_embed_tests.deployment import postgres
from arxiv_embed_tests.deployment.compose import COMPOSE_FILE, filled, here, seconds, start_order, written

PASSWORD = "it's a p@ss:w/rd #1"
PATIENCE_SECONDS = 180.0
HEALTH_SECONDS = 2.0
"""Between two health checks of a service."""
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


def wait_until(
    holds: Callable[[], bool], what: str, printed: Callable[[], str] = str, look_seconds: float = 0.2
) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end, f"waited in vain until {what}\n{printed()}"
        time.sleep(look_seconds)


@dataclass
class Stack:
    """The services as processes, each in a group of its own, as a container's are."""

    place: Path
    services: Mapping[str, Any]
    ports: Mapping[str, int]
    database: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    server: Any = None

    @property
    def home(self) -> Path:
        return self.place / "home"

    @property
    def site(self) -> str:
        """Dagster's pages."""
        return f"http://127.0.0.1:{self.ports['webserver']}"

    def environment(self, name: str) -> dict[str, str]:
        """What a container has: the image's PATH and the service's environment, nothing of this shell."""
        programs = [Path(sys.executable).parent, *([self.server.bin_path] if self.server else [])]
        path = os.pathsep.join([*map(str, programs), os.environ["PATH"]])
        return {"PATH": path, "HOME": str(self.place), "HF_HUB_OFFLINE": "1", **self.services[name]["environment"]}

    def start_all(self) -> None:
        for name in start_order(self.services):
            self.start(name)

    def start(self, name: str) -> None:
        service = self.services[name]
        options: dict[str, Any] = {"cwd": service.get("working_dir")}
        if name == "postgres":
            self.server = postgres.set_up(self.database, service["environment"])
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
        if name in self.ports:  # a look at a port costs nothing, a health check a Python that imports Dagster
            wait_until(lambda: self.is_listening(name), f"{name} was listening", lambda: self.printed(name))
        wait_until(lambda: self.is_healthy(name), f"{name} was healthy", lambda: self.printed(name), HEALTH_SECONDS)

    def is_listening(self, name: str) -> bool:
        assert self.processes[name].poll() is None, self.printed(name)
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", self.ports[name])) == 0

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

    def log(self) -> str:
        """The end of what every service printed."""
        return "\n".join(map(self.printed, self.processes))

    def kill(self, name: str) -> None:
        """What a container's end at the hand of the kernel is: nothing is left of its group."""
        try:
            os.killpg(self.processes[name].pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.processes[name].wait()

    def ask(self, query: str, **variables: Any) -> Any:
        """The webserver's answer to a GraphQL query."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        with urlopen(Request(f"{self.site}/graphql", body, {"Content-Type": "application/json"}), timeout=60) as answer:
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


@contextmanager
def stack_over(place: Path, metadata: Path, variables: Mapping[str, str]) -> Iterator[Stack]:
    """The services below `place`, none of them started, with a metadata folder and what `.env` would say; kills at the
    end what still runs."""
    ports = {name: free_port() for name in ("postgres", "code", "webserver")}
    names = {
        "0.0.0.0": "127.0.0.1",
        "postgres": "127.0.0.1",
        "code": "127.0.0.1",
        "5432": str(ports["postgres"]),
        "4000": str(ports["code"]),
        "3000": str(ports["webserver"]),
        "/opt/dagster": str(place / "dagster"),
        "/var/lib/arxiv_embed": str(place / "home"),
        "/metadata": str(metadata),
    }
    # As the Dockerfile lays them out.
    (place / "dagster").mkdir()
    shutil.copy(REPOSITORY / "dagster.yaml", place / "dagster")
    workspace = here(yaml.safe_load((REPOSITORY / "docker" / "workspace.yaml").read_text()), names)
    workspace["load_from"][0]["grpc_server"]["port"] = ports["code"]
    (place / "dagster" / "workspace.yaml").write_text(yaml.safe_dump(workspace))
    (place / "home").mkdir()
    services = filled(here(written(COMPOSE_FILE)["services"], names), {"POSTGRES_PASSWORD": PASSWORD, **variables})
    # Not below `place`, which only its owner may enter: the server has a user of its own where tests are root.
    with TemporaryDirectory(prefix="postgres-") as database:
        stack = Stack(place, services, ports, Path(database))
        try:
            yield stack
        finally:
            for name in stack.processes:
                stack.kill(name)
