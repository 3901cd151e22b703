"""MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penjing.errors import require

AT_ONCE = 500  # figures sent in one request; the service takes 1000
WAIT_SECONDS = 10.0
RUN_TAG = "penjing.folder"


@dataclass(eq=False, kw_only=True)
class MLflow:
    """Logs to an MLflow server or data base; figures are sent many at once.

    Args:
        uri: Of the tracking server; None is `MLFLOW_TRACKING_URI`, else a data base "mlflow.db" in
            the run's folder (or in the working folder).
        experiment: Where the run appears.
    """

    uri: str | None = None
    experiment: str = "penjing"
    _client: Any = field(default=None, repr=False, init=False)
    _run: str = field(default="", repr=False, init=False)
    _waiting: list[Any] = field(default_factory=list, repr=False, init=False)
    _sent: float = field(default=0.0, repr=False, init=False)

    def start(self, settings: Mapping[str, str], folder: Path | None, /) -> None:
        """Begin a run, or go on with the one of this folder.

        Raises:
            MissingDependencyError: mlflow is not installed.
        """
        require("mlflow", extra="track")
        from mlflow.tracking import MlflowClient

        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        beside = (folder or Path()).resolve() / "mlflow.db"
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{beside}"
        self._client = MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name(self.experiment)
        where = known.experiment_id if known else self._client.create_experiment(self.experiment)
        self._run = "" if folder is None else self._earlier(where, folder)
        if not self._run:
            tags = {} if folder is None else {RUN_TAG: str(folder.resolve())}
            self._run = self._client.create_run(where, tags=tags).info.run_id
            for name, text in settings.items():
                self._client.log_param(self._run, name, text)
        self._client.set_terminated(self._run, "RUNNING")
        self._sent = time.monotonic()

    def log(self, values: Mapping[str, float], step: int, /) -> None:
        """Add a point to each curve."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now, step) for name, value in values.items()]
        late = time.monotonic() - self._sent > WAIT_SECONDS
        if late or len(self._waiting) >= AT_ONCE:
            self._send()

    def finish(self, *, complete: bool) -> None:
        """Send what is left and close the run, as failed where it was not completed."""
        if self._client is not None and self._run:
            self._send()
            self._client.set_terminated(self._run, "FINISHED" if complete else "FAILED")
        self._client = None

    def _send(self) -> None:
        while self._waiting:
            self._client.log_batch(self._run, metrics=self._waiting[:AT_ONCE])
            del self._waiting[:AT_ONCE]
        self._sent = time.monotonic()

    def _earlier(self, experiment: str, folder: Path) -> str:
        """The run that an earlier call began in this folder; empty where there is none."""
        wanted = f"tags.`{RUN_TAG}` = '{folder.resolve()}'"
        found = self._client.search_runs([experiment], filter_string=wanted, max_results=1)
        return str(found[0].info.run_id) if found else ""
