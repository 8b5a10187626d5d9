"""MLflow: writes to the server at MLFLOW_TRACKING_URI, or to ``mlflow.db`` in the run's folder."""

import os
import time
from pathlib import Path

from study.loggers.base import Tool, measures
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.records import Epoch, Outcome, Record, Trial, setting


class MLflow:
    """One MLflow run per trial, nested in one for the study."""

    def __init__(self, plan: Plan, home: Path) -> None:
        # MLflow's own seven retries take minutes to find out that a server is down
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        from mlflow import MlflowClient

        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(home / 'mlflow.db').resolve()}"
        self._client = MlflowClient(tracking_uri=address)
        name = f"study {home.resolve().name}"
        found = self._client.get_experiment_by_name(name)
        self._experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._runs: dict[str, str] = {}
        for old in self._client.search_runs([self._experiment], max_results=50_000) if found else ():
            self._client.delete_run(old.info.run_id)  # written anew from the ledger, which is the truth
        study = self._client.create_run(self._experiment, run_name=name, tags={"command": plan.command})
        self._study = study.info.run_id

    def take(self, record: Record, history: History) -> None:
        del history
        match record:
            case Trial():
                from mlflow.entities import Param

                tags = {"mlflow.parentRunId": self._study, "arm": record.arm, "phase": record.phase}
                run = self._client.create_run(
                    self._experiment, run_name=f"{record.id} {setting(record.config)}", tags=tags
                )
                self._runs[record.id] = run.info.run_id
                params = [Param(name, str(value)) for name, value in record.config.items()]
                self._client.log_batch(run.info.run_id, params=params)
            case Epoch():
                from mlflow.entities import Metric

                now = int(time.time() * 1000)
                values = [Metric(name, value, now, record.epoch) for name, value in measures(record).items()]
                self._client.log_batch(self._runs[record.trial], metrics=values)
            case Outcome():
                run_id = self._runs.pop(record.trial)
                self._client.set_tag(run_id, "end", record.reason)
                ends = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
                self._client.set_terminated(run_id, ends[record.state])
            case _:
                pass

    def close(self) -> None:
        self._client.set_terminated(self._study)


TOOL = Tool(start=MLflow, needs="mlflow", shown_by="mlflow ui --backend-store-uri sqlite:///{home}/mlflow.db")
