"""Alarms on their way: metrics for Prometheus, and messages to people by apprise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, disable_created_metrics, start_http_server, write_to_textfile

from bertline.components import variables
from bertline.errors import UserError
from bertline.monitoring.judge import Judged, Report

PREFIX = "bertline_monitor_"


class Gauges:
    """What the newest window came to, as Prometheus reads it.

    Attributes:
        registry: a registry of its own.
    """

    def __init__(self):
        disable_created_metrics()
        self.registry = CollectorRegistry()
        figures = {
            "window_end": "When the newest judged window ended, Unix seconds. One that stays behind: nobody watches.",
            "answers": "Texts that the version answered in the window.",
            "small": "1 where these are too few to judge by.",
            "version": "The version that is judged.",
        }
        self._figures = {
            name: Gauge(PREFIX + name, words, ["model"], registry=self.registry) for name, words in figures.items()
        }
        self._accuracy = Gauge(
            f"{PREFIX}accuracy",
            "Accuracy: estimated without labels, measured by those that have come, and on the test rows.",
            ["model", "kind"],
            registry=self.registry,
        )
        looked = ["model", "look", "against"]
        self._alarm = Gauge(f"{PREFIX}alarm", "1 while the look is an alarm.", looked, registry=self.registry)
        self._distance = Gauge(
            f"{PREFIX}distance",
            "Share of the texts that moved, accuracy lost, or growth of latency.",
            looked,
            registry=self.registry,
        )

    def take(self, report: Report) -> None:
        """Shows a report in place of the one before. A small window clears no alarm."""
        figures = {
            "window_end": report.end.timestamp(),
            "answers": report.answered,
            "small": bool(report.small),
            "version": report.version,
        }
        for name, value in figures.items():
            self._figures[name].labels(report.task).set(value)
        if report.small:
            return
        for gauge in (self._accuracy, self._alarm, self._distance):
            gauge.clear()
        for name, figure in report.accuracy.items():
            self._accuracy.labels(report.task, name.removesuffix(" accuracy")).set(figure["accuracy"])
            self._accuracy.labels(report.task, "test").set(figure["test"])
        for judged in report.judged:
            labels = report.task, judged.look.name, judged.look.against
            self._alarm.labels(*labels).set(judged.alarm)
            self._distance.labels(*labels).set(judged.look.distance)

    def write(self, file: Path) -> None:
        """Writes them for node_exporter's textfile collector; whole at once, so that it never reads half of them.

        Raises:
            UserError: the file cannot be written.
        """
        try:
            write_to_textfile(str(file), self.registry)
        except OSError as error:
            raise UserError(f"{file} cannot be written: {error.strerror}") from error

    def serve(self, port: int) -> int:
        """Serves them on loopback under /metrics from a thread; returns the port, which 0 chooses.

        Raises:
            UserError: the port is taken.
        """
        try:
            server, _ = start_http_server(port, "127.0.0.1", registry=self.registry)
        except OSError as error:
            raise UserError(f"port {port} of 127.0.0.1: {error.strerror}; choose another.") from error
        return server.server_port


def words(report: Report, judged: Judged) -> str:
    """An alarm for people: what moved, by how much, since when, the texts that show it, and what to do."""
    look = judged.look
    lines = [
        f"{look.name} against {look.against}: {look.words}",
        f"Model {report.task}, version {report.version}; {report.answered:,} answers from "
        f"{report.start:%Y-%m-%d %H:%M} to {report.end:%Y-%m-%d %H:%M} UTC.",
        f"An alarm since the window that began {judged.since:%Y-%m-%d %H:%M} UTC. By chance: {judged.chance}.",
    ]
    if judged.telling_words:
        lines.append(f"Words that tell the texts apart: {', '.join(judged.telling_words)}")
    if judged.texts:
        lines.append("Texts that show it:")
    for each in judged.texts:
        text = each["text"] if each["text"] is not None else f"(no text is kept) id {each['id']}"
        lines.append(f"- {each['label']} {each['probability']:.2f}: {' '.join(text.split())[:200]}")
    return "\n".join([*lines, judged.way_out])


class Messages:
    """Messages to people, by apprise.

    Args:
        addresses: as apprise has them; ${NAME} stands for a variable of the environment.
        key: of the config that names them, for errors.

    Raises:
        UserError: apprise is not installed, does not know an address, or a variable is not set.
    """

    def __init__(self, addresses: Sequence[str], key: str = "monitor.notify"):
        try:
            import apprise
        except ImportError:
            raise UserError(f"{key} needs apprise: pip install 'bertline[monitoring]'") from None
        self._addresses, self._key = [*addresses], key
        self._services: list[apprise.Apprise] = []  # one per address
        self._missed: dict[tuple[str, str], list[apprise.Apprise]] = {}  # who did not get a message
        for address in addresses:
            self._services.append(apprise.Apprise())
            if not self._services[-1].add(variables.filled(address, key)):
                raise UserError(
                    f"{key}: {_kind(address)}: apprise does not know such an address; its list is at "
                    "https://github.com/caronc/apprise/wiki"
                )

    def send(self, report: Report, alarms: Sequence[Judged]) -> str:
        """Sends each alarm to all addresses; returns what went wrong, "" where all were told."""
        told = [
            self.tell(
                f"bertline: {report.task}: {judged.look.name} against {judged.look.against}", words(report, judged)
            )
            for judged in alarms
        ]
        return "" if all(told) else self.untold

    def tell(self, title: str, body: str) -> bool:
        """Sends one message to all addresses, and again only to those that did not get it; returns whether all have."""
        services = self._missed.pop((title, body), self._services)
        missed = [each for each in services if not each.notify(title=title, body=body, body_format="text")]
        if missed:
            self._missed[title, body] = missed
        return not missed

    @property
    def untold(self) -> str:
        """For people: that somebody was not told."""
        kinds = ", ".join(sorted({_kind(address) for address in self._addresses}))
        return f"not everybody of {self._key} could be told ({kinds}); the log says why"


def _kind(address: str) -> str:
    """The address without what may be secret in it."""
    return address.partition("://")[0] + "://..."
