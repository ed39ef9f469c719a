"""Write a store with the MLflow that runs this, then read it back: ``writer.py KIND HOME``.

KIND is ``files``, ``sqlite`` or ``sample``.  Runs inside old environments (Python 3.7 syntax),
through MLflow's own API only, in the folder HOME, which make.py moves away afterwards.  What a
release does not know or refuses is skipped and named under ``refused`` in answers.json.
"""
# ruff: noqa
# mypy: ignore-errors

import inspect
import json
import logging
import os
import random
import shutil
import socket
import sys
import time
import traceback
import uuid

KIND, HOME = sys.argv[1], sys.argv[2]
os.chdir(HOME)
sys.argv = ["train.py"]

# The same IDs and times in every making: MLflow takes them from these functions.
RNG = random.Random(20190409)
CLOCK = {"now": 1700000000.0}


def tick():
    """A clock that moves by a few milliseconds at each look."""
    CLOCK["now"] += RNG.randrange(1, 9) / 1000.0
    return round(CLOCK["now"], 3)


uuid.uuid4 = lambda: uuid.UUID(int=RNG.getrandbits(128), version=4)
time.time = tick
time.time_ns = lambda: int(tick() * 1000) * 1000000
random.seed(20190409)
if not os.environ.get("GOLDEN_DEBUG"):
    logging.disable(logging.WARNING)

# Later releases look webhooks' hosts up; the host in these stores exists nowhere.
RESOLVE = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **named: RESOLVE(
    "192.0.2.1" if host == "hooks.example.com" else host, *rest, **named
)

import mlflow  # noqa: E402
from mlflow.entities import Metric, Param, RunTag, ViewType  # noqa: E402

try:
    from mlflow import MlflowClient
except ImportError:
    from mlflow.tracking import MlflowClient

VERSION = tuple(int(part) for part in mlflow.__version__.split(".")[:2])
RELEASED = {
    (0, 9): 1555500000,
    (1, 0): 1559600000,
    (1, 8): 1587400000,
    (1, 20): 1630600000,
    (1, 30): 1664800000,
    (2, 3): 1684200000,
    (2, 9): 1702600000,
    (2, 14): 1720700000,
    (2, 22): 1747200000,
    (3, 1): 1751500000,
    (3, 6): 1762600000,
    (3, 17): 1793500000,
}
T0 = RELEASED.get(VERSION, 1700000000) * 1000
CLOCK["now"] = T0 / 1000.0
REFUSED = {}
FAULTS = []


def knows(function, name):
    """Whether a function of this release takes an argument of that name."""
    return name in inspect.signature(function).parameters


def given(function, **arguments):
    """Call a function with those of the arguments that it knows."""
    known = {k: v for k, v in arguments.items() if knows(function, k)}
    return function(**known)


def attempt(what, function, *arguments, **keywords):
    """Call what a release may not know; a refusal is recorded and gives None."""
    try:
        return function(*arguments, **keywords)
    except Exception as exc:
        text = " ".join(str(exc).split()).replace(HOME, "<home>").split(" (" + sys.prefix)[0][:160]
        REFUSED[what] = "%s: %s" % (type(exc).__name__, text)
        if os.environ.get("GOLDEN_DEBUG"):
            traceback.print_exc()
        return None


def connect(name):
    """A client of the store of a name in HOME."""
    uri = "sqlite:///%s/%s.db" % (HOME, name) if KIND == "sqlite" else "file://%s/%s" % (HOME, name)
    mlflow.set_tracking_uri(uri)
    return MlflowClient()


def limit(name, default):
    """A length limit of this release."""
    from mlflow.utils import validation

    return getattr(validation, name, default)


def stamp(ms):
    """A metric's time: 0.9 has seconds, all others milliseconds."""
    return ms // 1000 if VERSION < (1, 0) else ms


def log(client, run_id, key, value, ms, step=0, **dataset):
    """Log one point; 0.9 knows no steps."""
    if VERSION < (1, 0):
        client.log_metric(run_id, key, value, stamp(ms))
    else:
        client.log_metric(run_id, key, value, timestamp=ms, step=step, **dataset)


ODD_PARAMS = {
    "unicode": "Größe=3 · 学習率 · 🚀",
    "lines": "first\nsecond\r\nthird\rfourth",
    "line_end": "ends with newline\n",
    "empty": "",
    "blanks": "  padded\t",
    "quote": 'it\'s "quoted" \\ 100%_x; -- {"a": [1]}',
}
ODD_KEYS = ["train/loss", "a.b-c_d e", "val/f1/macro", "系列", "auc:test"]
NUMBERS = [
    ("tenth", 0.1),
    ("tiny", 1e-300),
    ("huge", 1e300),
    ("denormal", 5e-324),
    ("third", 1.0 / 3.0),
    ("integer", 12345678901234567.0),
    ("negative_zero", -0.0),
    ("not_a_number", float("nan")),
    ("infinite", float("inf")),
    ("minus_infinite", float("-inf")),
    ("biggest", sys.float_info.max),
]


def probe():
    """Find in a store of their own which odd values this release can write and read again."""
    client = connect("probe")
    experiment = client.create_experiment("probe")
    good = {"params": {}, "tags": {}, "keys": [], "metrics": [], "numbers": []}

    def tried(what, function):
        run = client.create_run(experiment)

        def both():
            function(run.info.run_id if VERSION >= (1, 0) else run.info.run_uuid)
            return client.get_run(run.info.run_id if VERSION >= (1, 0) else run.info.run_uuid)

        return attempt(what, both) is not None

    for key, value in ODD_PARAMS.items():
        if tried("param " + key, lambda run_id: client.log_param(run_id, key, value)):
            good["params"][key] = value
        if tried("tag " + key, lambda run_id: client.set_tag(run_id, key, value)):
            good["tags"][key] = value
    for key in ODD_KEYS:
        if tried("param key " + key, lambda run_id: client.log_param(run_id, key, "1")):
            good["keys"].append(key)
        if tried("metric key " + key, lambda run_id: log(client, run_id, key, 1.5, T0)):
            good["metrics"].append(key)
    for key, value in NUMBERS:
        if tried("metric " + key, lambda run_id: log(client, run_id, key, value, T0)):
            good["numbers"].append((key, value))
    return good


def run_id_of(run):
    """A run's ID; 0.9 calls it run_uuid."""
    return run.info.run_id if VERSION >= (1, 0) else run.info.run_uuid


class Writer(object):
    """One store."""

    def __init__(self, client):
        self.client = client
        self.experiments, self.runs, self.traces, self.models = [], [], [], []
        self.minute = 0

    def experiment(self, name, location=None, tags=None):
        """Create an experiment."""
        made = self.client.create_experiment(name, artifact_location=location)
        if made == "None":  # 0.9's SQL store, when given a location
            made = self.client.get_experiment_by_name(name).experiment_id
        for key, value in (tags or {}).items():
            if hasattr(self.client, "set_experiment_tag"):
                self.client.set_experiment_tag(made, key, value)
        self.experiments.append(str(made))
        return made

    def run(self, experiment, name, parent=None, tags=None, kind="LOCAL"):
        """Create a run with the tags that the fluent API would have set."""
        self.minute += 7
        every = {
            "mlflow.user": "ann",
            "mlflow.source.name": "train.py",
            "mlflow.source.type": kind,
            "mlflow.source.git.commit": "8c1f6bd4a1b3c7f0e2d95a64b0c83f1d7e6a9b52",
        }
        every.update(tags or {})
        extra = {}
        if parent and knows(self.client.create_run, "parent_run_id"):
            extra["parent_run_id"] = parent
        elif parent:
            every["mlflow.parentRunId"] = parent
        if knows(self.client.create_run, "user_id"):
            extra["user_id"] = "ann"
        if knows(self.client.create_run, "run_name"):
            extra["run_name"] = name
        if VERSION >= (1, 0):
            every["mlflow.runName"] = name
            if "run_name" in extra:
                del every["mlflow.runName"]
        run = self.client.create_run(experiment, start_time=T0 + self.minute * 60000, tags=every, **extra)
        run_id = run_id_of(run)
        self.runs.append(run_id)
        return run_id

    def end(self, run_id, status="FINISHED", minutes=5):
        """End a run; KILLED is refused by the SQL stores before 1.5."""
        when = T0 + (self.minute + minutes) * 60000
        try:
            self.client.set_terminated(run_id, status=status, end_time=when)
        except Exception as exc:
            REFUSED["status " + status] = type(exc).__name__
            self.client.set_terminated(run_id, status="FAILED", end_time=when)

    def history(self, run_id, key, points, start=None):
        """Log (value, step) points, a second apart."""
        start = T0 + self.minute * 60000 if start is None else start
        for number, (value, step) in enumerate(points):
            log(self.client, run_id, key, value, start + number * 1000, step)

    def plain(self, experiment, name, **keywords):
        """A plain training run, left running."""
        run_id = self.run(experiment, name, **keywords)
        self.client.log_param(run_id, "learning_rate", "0.01")
        self.client.log_param(run_id, "epochs", 3)
        self.history(run_id, "loss", [(0.9, 0), (0.5, 1), (0.25, 2)])
        return run_id


def tracking(w, good):
    """Experiments and runs: what every release knows."""
    client = w.client
    churn = w.experiment(
        "churn-prediction",
        tags={"team": "growth", "mlflow.note.content": "Kündigungen\nvorhersagen ☂"},
    )
    cloud = w.experiment("Prévisions 需要予測 #1", location="s3://ml-artifacts/forecasts")
    doomed = w.experiment("abandoned", tags={"why": "superseded"})
    old = w.experiment("old name")
    client.rename_experiment(old, "renamed experiment")
    back = w.experiment("deleted and restored")

    plain = w.plain(churn, "baseline")
    w.end(plain)

    odd = w.run(churn, "naïve Läufer 走 🏃")
    for key, value in good["params"].items():
        client.log_param(odd, key, value)
    for key, value in good["tags"].items():
        client.set_tag(odd, key, value)
    for key in good["keys"]:
        client.log_param(odd, key, "value of " + key)
    top = limit("MAX_PARAM_VAL_LENGTH", 250)
    attempt("long param", client.log_param, odd, "long", ("0123456789" * (top // 10 + 1))[: top - 2] + "é☃")
    top = limit("MAX_TAG_VAL_LENGTH", 250)
    attempt("long tag", client.set_tag, odd, "long", ("abcdefghij" * (top // 10 + 1))[: top - 2] + "é☃")
    client.set_tag(odd, "mlflow.note.content", "A **note**\nof two lines")
    client.set_tag(odd, "changed", "before")
    client.set_tag(odd, "changed", "after")
    if hasattr(client, "delete_tag"):
        client.set_tag(odd, "gone", "x")
        client.delete_tag(odd, "gone")
    w.end(odd)

    numbers = w.run(churn, "numbers")
    for key, value in good["numbers"]:
        log(client, numbers, key, value, T0 + 5000)
    for key in good["metrics"]:
        w.history(numbers, key, [(1.5, 0), (2.5, 10)])
    w.history(numbers, "negative_steps", [(0.1, -3), (0.2, -1), (0.3, 0)])
    w.history(numbers, "unordered", [(3.0, 30), (1.0, 10), (2.0, 20)])
    usable = dict(good["numbers"])
    if "not_a_number" in usable:
        nan = float("nan")
        w.history(numbers, "with_gaps", [(0.5, 0), (nan, 1), (0.25, 2), (nan, 3)])
        w.history(numbers, "nan_then_number", [(nan, 0), (7.0, 1)])
        for value in (-1.0, nan, -2.0):
            attempt("nan and numbers at one point", log, client, numbers, "one_point", value, T0, 1)
    if "infinite" in usable:
        w.history(numbers, "diverges", [(1.0, 0), (float("inf"), 1), (float("-inf"), 2)])
    for value in (0.5, 0.75):
        attempt("two values at one point", log, client, numbers, "same_time", value, T0, 2)
    for _ in range(2):
        attempt("the same point twice", log, client, numbers, "twice", 0.125, T0, 2)
    w.end(numbers)

    if VERSION >= (1, 0):
        batch = w.run(churn, "batch", kind="JOB")
        client.log_batch(
            batch,
            metrics=[Metric("rmse", 1.0 / (n + 1), T0 + n * 60000, n) for n in range(40)],
            params=[Param("p%02d" % n, str(n * n)) for n in range(20)],
            tags=[RunTag("t%02d" % n, "v%d" % n) for n in range(5)],
        )
        w.end(batch)

    parent = w.plain(churn, "sweep", kind="NOTEBOOK")
    for number in range(2):
        child = w.plain(churn, "sweep-%d" % number, parent=parent)
        w.end(child, "FINISHED" if number else "FAILED")
    grandchild = w.plain(churn, "sweep-1-retry", parent=child)
    w.end(grandchild, "KILLED")
    w.end(parent)

    w.plain(churn, "still running")
    w.run(churn, "empty and running")
    deleted = w.plain(churn, "deleted run", tags={"reason": "wrong data"})
    w.end(deleted, "FAILED")
    client.delete_run(deleted)
    restored = w.plain(churn, "deleted and restored run")
    w.end(restored)
    client.delete_run(restored)
    client.restore_run(restored)

    w.end(w.plain(cloud, "forecast"))
    w.end(w.plain(old, "in a renamed experiment"))
    w.end(w.plain(0 if VERSION < (0, 9) else "0", "in Default"))
    w.end(w.plain(back, "in a restored experiment"))
    client.delete_experiment(back)
    client.restore_experiment(back)
    gone = w.plain(doomed, "gone with its experiment")
    w.end(gone)
    first = w.plain(doomed, "deleted before its experiment")
    w.end(first)
    client.delete_run(first)
    w.plain(doomed, "running in a deleted experiment")
    return {
        "churn": str(churn),
        "cloud": str(cloud),
        "doomed": str(doomed),
        "plain": plain,
        "numbers": numbers,
        "parent": parent,
        "gone": gone,
    }


def registry(w, made):
    """Registered models."""
    client, create = w.client, w.client.create_model_version
    known = {}
    if knows(client.create_registered_model, "tags"):
        known = {"tags": {"owner": "ann", "empty": ""}, "description": "Wer kündigt? ☂\nZeile 2"}
    if attempt("model registry", client.create_registered_model, "churn-classifier", **known) is None:
        return
    source = "s3://ml-artifacts/churn/%s/artifacts/model"
    for number in range(4):
        extra = {}
        if knows(create, "tags"):
            extra["tags"] = {"validation": "passed" if number else "failed"}
        if knows(create, "description"):
            extra["description"] = "Version %d\nof the classifier" % (number + 1)
        if knows(create, "run_link") and number == 2:
            extra["run_link"] = "https://mlflow.example.com/#/experiments/1/runs/" + made["plain"]
        run_id = made["parent"] if number % 2 else made["plain"]
        create("churn-classifier", source % run_id, run_id, **extra)
    if not known:
        update = client.update_registered_model
        given(update, name="churn-classifier", description="Wer kündigt? ☂\nZeile 2")
    stage = getattr(client, "transition_model_version_stage", None)
    if stage is None:
        stage = client.update_model_version
    for version, name in (("1", "Archived"), ("2", "Production"), ("3", "Staging")):
        attempt("stage", stage, name="churn-classifier", version=version, stage=name)
    client.update_model_version(name="churn-classifier", version="2", description="In use, naïve ☃")
    if hasattr(client, "set_registered_model_tag"):
        client.set_registered_model_tag("churn-classifier", "domain", "telecom")
        client.set_model_version_tag("churn-classifier", "2", "approved by", "böb")
    if hasattr(client, "set_registered_model_alias"):
        client.set_registered_model_alias("churn-classifier", "champion", "2")
        client.set_registered_model_alias("churn-classifier", "challenger", "3")
    client.create_registered_model("forecaster, weekly (预测)")
    create("forecaster, weekly (预测)", "s3://ml-artifacts/forecasts/model", made["plain"])
    attempt("version without run", create, "forecaster, weekly (预测)", "s3://ml-artifacts/forecasts/model2", None)
    client.create_registered_model("no versions yet")
    client.create_registered_model("old model name")
    if KIND == "files" or VERSION >= (1, 9):  # 1.8 leaves the version behind, without a model
        create("old model name", "s3://ml-artifacts/old/model", made["plain"])
    rename = getattr(client, "rename_registered_model", None)
    if rename:
        rename("old model name", "new model name")
    else:
        client.update_registered_model(name="old model name", new_name="new model name")
    client.create_registered_model("deleted model")
    create("deleted model", "s3://ml-artifacts/deleted/model", made["plain"])
    client.delete_registered_model("deleted model")
    client.delete_model_version("churn-classifier", "4")


def datasets(w, made):
    """Dataset inputs, from 2.4."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    def one(name, digest, context, schema=None, profile=None, kind="local", source=None):
        source = source or json.dumps({"uri": "/data/%s.csv" % name})
        dataset = Dataset(name, digest, kind, source, schema=schema, profile=profile)
        tags = [InputTag("mlflow.data.context", context)] if context else []
        return DatasetInput(dataset, tags)

    schema = json.dumps({"mlflow_colspec": [{"type": "double", "name": "tenure · Dauer", "required": True}]})
    training = one("customers", "8f5d1c2a", "training", schema, json.dumps({"num_rows": 7043}))
    testing = one("customers-holdout", "77aa0b1c", "eval", schema)
    remote = one("kunden 顧客", "00ff", None, kind="http", source=json.dumps({"url": "https://data.example.com/k.csv"}))
    w.client.log_inputs(made["plain"], [training, testing])
    w.client.log_inputs(made["parent"], [training])
    w.client.log_inputs(made["numbers"], [training, remote])
    w.client.log_inputs(made["gone"], [testing])
    w.client.log_inputs(made["plain"], [training])


def logged_models(w, made):
    """Logged models with metrics, inputs and outputs, from 3.0."""
    from mlflow.entities import LoggedModelInput, LoggedModelOutput

    client = w.client
    states = ("READY", "READY", "FAILED", "PENDING", "READY")
    for number, status in enumerate(states):
        model = client.create_logged_model(
            made["doomed"] if number == 4 else made["churn"],
            name="churn-model-%d" % number,
            source_run_id=made["parent"] if number == 1 else made["plain"],
            tags={"flavor": "sklearn", "unicode": "ç ☃"},
            params={"depth": str(number), "note": "two\nlines", "long": "x" * 500},
            model_type="classifier" if number else "",
        )
        if status != "PENDING":
            client.finalize_logged_model(model.model_id, status)
        w.models.append(model.model_id)
    first, second = w.models[:2]
    client.set_logged_model_tags(first, {"stage": "candidate", "gone": "x"})
    client.delete_logged_model_tag(first, "gone")
    client.log_outputs(made["plain"], [LoggedModelOutput(first, 0), LoggedModelOutput(second, 20)])
    given(client.log_inputs, run_id=made["parent"], datasets=[], models=[LoggedModelInput(first)])
    for step, value in enumerate((0.7, 0.8, 0.85)):
        log(
            client,
            made["plain"],
            "accuracy",
            value,
            T0 + step * 1000,
            step,
            model_id=first,
            dataset_name="customers",
            dataset_digest="8f5d1c2a",
        )
        log(client, made["parent"], "accuracy", value - 0.1, T0 + step * 1000, step, model_id=first)
    log(client, made["plain"], "train/f1", 0.5, T0, 1, model_id=second)
    for value in (float("nan"), float("inf")):
        attempt(
            "logged model metric %r" % value,
            log,
            client,
            made["plain"],
            "odd_%r" % value,
            value,
            T0,
            1,
            model_id=second,
        )
    attempt("delete logged model", client.delete_logged_model, w.models[2])
    attempt(
        "version from a logged model",
        client.create_model_version,
        "churn-classifier",
        "models:/" + first,
        made["plain"],
        **({"model_id": first} if knows(client.create_model_version, "model_id") else {}),
    )


def trace(w, experiment, name, ok=True, text="Wer kündigt?"):
    """A trace of three spans through the client API, from 2.14."""
    client = w.client
    root = given(
        client.start_trace,
        name=name,
        span_type="CHAIN",
        inputs={"question": text, "k": 3, "ratio": 0.1},
        attributes={"model": "gpt-test", "temperature": 0.5},
        tags={"suite": "golden", "unicode": "ü ☃"},
        experiment_id=experiment,
    )
    trace_id = getattr(root, "trace_id", None) or root.request_id
    w.traces.append(trace_id)
    found = client.start_span("retrieve", trace_id, root.span_id, span_type="RETRIEVER", inputs={"query": text})
    client.end_span(trace_id, found.span_id, outputs=[{"page_content": "Vertrag\n2", "score": 0.25}])
    answer = client.start_span("generate", trace_id, root.span_id, span_type="LLM", inputs=[1, None, True])
    if not ok:
        answer.add_event(mlflow.entities.SpanEvent.from_exception(ValueError("out of tokens")))
    client.end_span(trace_id, answer.span_id, outputs="Ja, 🚀", status="OK" if ok else "ERROR")
    client.end_trace(trace_id, outputs={"answer": "Ja"}, status="OK" if ok else "ERROR")
    client.set_trace_tag(trace_id, "reviewed", "no\nnot yet")
    return trace_id, found.span_id


def fluent_trace(w, experiment, name, session):
    """A trace with metadata, client request ID and token usage, through the fluent API of 3."""
    mlflow.set_experiment(experiment_id=experiment)
    with mlflow.start_span(name=name, span_type="AGENT") as span:
        span.set_inputs({"messages": [{"role": "user", "content": "Hallo ☂"}]})
        given(
            mlflow.update_current_trace,
            tags={"channel": "web"},
            metadata={
                "mlflow.trace.session": session,
                "mlflow.trace.user": "customer-17",
                "custom": "größer",
            },
            client_request_id="req-" + name,
        )
        with mlflow.start_span(name="chat", span_type="CHAT_MODEL") as inner:
            inner.set_inputs({"prompt": "Hallo"})
            inner.set_attribute("mlflow.chat.tokenUsage", {"input_tokens": 12, "output_tokens": 7, "total_tokens": 19})
            inner.set_outputs({"text": "Guten Tag"})
        span.set_outputs({"choices": [{"message": {"role": "assistant", "content": "Guten Tag"}}]})
    trace_id = getattr(span, "trace_id", None) or span.request_id
    w.traces.append(trace_id)
    return trace_id


def assess(trace_id, span_id):
    """Assessments of every type, from 3.2."""
    from mlflow.entities import AssessmentError, AssessmentSource

    judge = AssessmentSource(source_type="LLM_JUDGE", source_id="gpt-test")
    human = AssessmentSource(source_type="HUMAN", source_id="bob@example.com")
    code = AssessmentSource(source_type="CODE", source_id="checks.py")
    feedback, expect = mlflow.log_feedback, mlflow.log_expectation
    feedback(trace_id=trace_id, name="correct", value=True, source=judge, rationale="Es stimmt.\nJa ☂")
    number = feedback(trace_id=trace_id, name="score", value=0.1, source=code, metadata={"run": "1"})
    feedback(trace_id=trace_id, name="stars", value=4, source=human)
    feedback(trace_id=trace_id, name="verdict", value="très bien", source=human, span_id=span_id)
    feedback(trace_id=trace_id, name="labels", value=["a", "b"], source=code)
    feedback(trace_id=trace_id, name="by_part", value={"intro": 1, "end": False}, source=code)
    failed = AssessmentError(error_code="RATE_LIMIT", error_message="too many", stack_trace="Traceback …")
    feedback(trace_id=trace_id, name="toxic", error=failed, source=judge)
    expect(trace_id=trace_id, name="answer", value="Ja", source=human, metadata={"round": "2"})
    expect(trace_id=trace_id, name="count", value=3, source=human)
    expect(trace_id=trace_id, name="facts", value=["Vertrag", 2, None, {"deep": [1]}], source=human)
    expect(trace_id=trace_id, name="arguments", value={"city": "Köln", "days": [1, 2]}, source=human)
    mlflow.override_feedback(trace_id=trace_id, assessment_id=number.assessment_id, value=0.9, source=human)
    gone = feedback(trace_id=trace_id, name="gone", value=1, source=code)
    mlflow.delete_assessment(trace_id=trace_id, assessment_id=gone.assessment_id)


def traces(w, made):
    """Traces, from 2.14."""
    first, span_id = trace(w, made["churn"], "answer")
    trace(w, made["churn"], "answer", ok=False, text="Lang " * 400)
    trace(w, "0", "in Default")
    trace(w, made["doomed"], "in a deleted experiment")
    gone, _ = trace(w, made["churn"], "deleted")
    w.client.delete_traces(
        made["churn"],
        **({"trace_ids": [gone]} if knows(w.client.delete_traces, "trace_ids") else {"request_ids": [gone]}),
    )
    w.traces.remove(gone)
    if VERSION >= (3, 0):
        fluent_trace(w, made["churn"], "chat-1", "session-1")
        fluent_trace(w, made["churn"], "chat-2", "session-1")
    if hasattr(mlflow, "log_feedback"):
        attempt("assessments", assess, first, span_id)
        attempt("one assessment", mlflow.log_feedback, trace_id=w.traces[1], name="seen", value=False)
    if hasattr(w.client, "link_traces_to_run"):
        attempt("trace links", w.client.link_traces_to_run, w.traces[:2], made["plain"])


def prompts(w):
    """Prompts, from 2.21."""
    register = getattr(w.client, "register_prompt", None) or getattr(mlflow, "register_prompt", None)
    if register is None:
        return
    tags = "tags" if knows(register, "tags") else "version_metadata"
    for text in ("Summarise {{text}}.", "Fasse {{text}}\nin {{n}} Sätzen zusammen ☂."):
        register(name="summarise", template=text, commit_message="Make it " + text[:3], **{tags: {"lang": text[:2]}})
    alias = getattr(w.client, "set_prompt_alias", None) or getattr(mlflow, "set_prompt_alias", None)
    alias("summarise", alias="production", version=2)
    if VERSION >= (3, 0):
        chat = [{"role": "system", "content": "Be {{tone}}."}, {"role": "user", "content": "{{q}}"}]
        attempt("chat prompt", register, name="chat", template=chat)
    if hasattr(w.client, "set_prompt_tag"):
        attempt("prompt tag", w.client.set_prompt_tag, "summarise", "owner", "böb")


def sql_only(w, made):
    """What only the SQL stores know: webhooks, scorers, evaluation datasets, gateway and later."""
    client = w.client
    store = client._tracking_client.store

    def webhooks():
        from mlflow.entities import WebhookEvent

        events = [WebhookEvent("registered_model", "created"), WebhookEvent("model_version", "created")]
        client.create_webhook("to-chat", "https://hooks.example.com/chat", events, "Zum Chat ☂", "s3cret")
        client.create_webhook("paused", "https://hooks.example.com/other", events[:1], status="DISABLED")

    def scorers():
        from mlflow.genai.scorers import Guidelines, scorer

        @scorer
        def is_short(outputs):
            return len(str(outputs)) < 100

        attempt("scorer from code", is_short.register, experiment_id=made["churn"])
        for text in ("Be polite.", "Be polite and brief ☂."):
            judge = Guidelines(name="polite", guidelines=text, model="openai:/gpt-test")
            judge.register(experiment_id=made["churn"])

    def evaluation_datasets():
        from mlflow.genai.datasets import create_dataset

        dataset = create_dataset(name="questions", experiment_id=[made["churn"], "0"], tags={"v": "1"})
        dataset.merge_records(
            [
                {"inputs": {"q": "Wer kündigt? ☂"}, "expectations": {"a": "Ana", "list": [1, 2]}, "tags": {"t": "1"}},
                {"inputs": {"q": "2 + 2", "n": 0.1}, "expectations": {"a": 4}},
            ]
        )
        create_dataset(name="no records", experiment_id=made["cloud"])

    def gateway():
        from mlflow.entities import GatewayEndpointModelConfig, GatewayModelLinkageType

        secret = store.create_gateway_secret("openai-key", {"api_key": "sk-not-a-key"}, "openai", created_by="ann")
        model = store.create_gateway_model_definition("fast", secret.secret_id, "openai", "gpt-test", "ann")
        config = GatewayEndpointModelConfig(model.model_definition_id, GatewayModelLinkageType.PRIMARY, 1.0)
        endpoint = store.create_gateway_endpoint("chat", [config], "ann")
        from mlflow.entities import GatewayEndpointTag

        store.set_gateway_endpoint_tag(endpoint.endpoint_id, GatewayEndpointTag("tier", "gold"))
        made["secret"], made["endpoint"] = secret.secret_id, endpoint.endpoint_id

    def issues():
        store.create_issue(
            made["churn"],
            "Answers too long",
            "Mehr als 100 Wörter ☂",
            created_by="ann",
            root_causes=["prompt"],
            categories=["style"],
            source_run_id=made["plain"],
        )

    def label_schemas():
        from mlflow.genai.label_schemas import InputCategorical, InputPassFail, create_label_schema

        create_label_schema("ok", type="feedback", input=InputPassFail("gut", "schlecht"), experiment_id=made["churn"])
        made["schema"] = create_label_schema(
            "tone",
            type="feedback",
            input=InputCategorical(options=["mild", "größer"]),
            instruction="Wie?",
            enable_comment=True,
            experiment_id=made["churn"],
        ).schema_id

    def review_queues():
        from mlflow.genai.review_queues.review_queues import ReviewItemType, ReviewQueueType

        queue = store.create_review_queue(
            made["churn"],
            name="this week",
            queue_type=ReviewQueueType.CUSTOM,
            created_by="ann",
            users=["bob"],
            schema_ids=[made["schema"]],
        )
        store.add_items_to_review_queue(queue.queue_id, item_type=ReviewItemType.TRACE, item_ids=w.traces[:2])

    def mcp_servers():
        client.create_mcp_server("com.example/search", "Suche ☂")
        client.create_mcp_server_version(
            {"name": "com.example/search", "version": "1.0.0", "description": "Search"}, tools=[]
        )
        client.set_mcp_server_tag("com.example/search", "owner", "böb")
        client.set_mcp_server_alias("com.example/search", "stable", "1.0.0")

    def workspaces():
        from mlflow.store.workspace.sqlalchemy_store import SqlAlchemyStore as Workspaces
        from mlflow.entities import Workspace

        Workspaces("sqlite:///%s/mlflow.db" % HOME).create_workspace(Workspace("team-b", "Zweites Team ☂"))

    def budget():
        from mlflow.entities import BudgetAction, BudgetDuration, BudgetDurationUnit, BudgetTargetScope, BudgetUnit

        store.create_budget_policy(
            BudgetUnit.USD,
            99.5,
            BudgetDuration(BudgetDurationUnit.MONTHS, 1),
            BudgetTargetScope.GLOBAL,
            BudgetAction.ALERT,
            "ann",
        )

    for name, function in (
        ("webhooks", webhooks),
        ("scorers", scorers),
        ("evaluation datasets", evaluation_datasets),
        ("gateway", gateway),
        ("issues", issues),
        ("label schemas", label_schemas),
        ("review queues", review_queues),
        ("MCP servers", mcp_servers),
        ("workspaces", workspaces),
        ("budget policies", budget),
    ):
        attempt(name, function)


def auth(made):
    """The basic-auth database: users and permissions of every kind that the release knows."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore()
    store.init_db("sqlite:///%s/basic_auth.db" % HOME)
    store.create_user("admin", "password-1234", is_admin=True)
    store.create_user("ann", "password-1234")
    store.create_user("bøb ☂", "password-1234")
    store.create_experiment_permission(made["churn"], "ann", "MANAGE")
    store.create_experiment_permission(made["cloud"], "ann", "READ")
    store.create_experiment_permission(made["churn"], "bøb ☂", "EDIT")
    store.create_registered_model_permission("churn-classifier", "ann", "MANAGE")
    store.create_registered_model_permission("new model name", "bøb ☂", "READ")
    for name, arguments in (
        ("create_scorer_permission", (made["churn"], "polite", "ann", "EDIT")),
        ("create_gateway_secret_permission", (made.get("secret", "s-1"), "ann", "USE")),
        ("create_gateway_endpoint_permission", (made.get("endpoint", "e-1"), "bøb ☂", "USE")),
        ("set_workspace_permission", ("team-b", "ann", "MANAGE")),
        ("create_mcp_server_permission", ("com.example/search", "ann", "READ")),
    ):
        if hasattr(store, name):
            attempt("auth: " + name, getattr(store, name), *arguments)
    if hasattr(store, "create_role"):

        def role():
            made_role = given(store.create_role, name="reviewers", workspace="default", description="Lesen ☂")
            store.add_role_permission(made_role.id, "experiment", made["churn"], "READ")
            user = store.get_user("ann")
            store.assign_role_to_user(user.id, made_role.id)

        attempt("auth: roles", role)
    users = {}
    for user in store.list_users():
        users[user.username] = {
            "is_admin": user.is_admin,
            "experiment_permissions": sorted(
                [p.experiment_id, p.permission] for p in store.list_experiment_permissions(user.username)
            ),
            "registered_model_permissions": sorted(
                [p.name, p.permission] for p in store.list_registered_model_permissions(user.username)
            ),
        }
    return users


def number(value):
    """A float as text that keeps NaN, infinity and every bit."""
    return repr(float(value))


def fields(thing, names):
    """Some attributes of an entity, those that this release knows."""
    found = {}
    for name in names.split():
        if hasattr(thing, name):
            value = getattr(thing, name)
            if value is None or isinstance(value, (bool, int, str)):
                found[name] = value
            elif isinstance(value, float):
                found[name] = number(value)
            elif hasattr(value, "to_dict"):
                found[name] = value.to_dict()
            elif hasattr(value, "value"):
                found[name] = value.value
            else:
                found[name] = json.loads(json.dumps(value, default=lambda o: dict(o)))
    return found


def points(metrics):
    """Metric points in order of (step, timestamp, value)."""
    found = [
        dict(fields(m, "timestamp step dataset_name dataset_digest model_id run_id"), value=number(m.value))
        for m in metrics
    ]
    return sorted(found, key=lambda p: (p.get("step") or 0, p["timestamp"], p["value"]))


def read_run(client, run_id):
    """A run as this release answers for it, and its metric histories."""
    run = client.get_run(run_id)
    info = fields(
        run.info,
        "run_id run_name experiment_id user_id status start_time end_time lifecycle_stage artifact_uri",
    )
    if not isinstance(info["status"], str):
        from mlflow.entities import RunStatus

        info["status"] = RunStatus.to_string(info["status"])
    info["run_id"] = run_id
    info["experiment_id"] = str(info["experiment_id"])
    if VERSION < (1, 0):
        data = {
            "params": {p.key: p.value for p in run.data.params},
            "tags": {t.key: t.value for t in run.data.tags},
            "metrics": {m.key: number(m.value) for m in run.data.metrics},
        }
        history = client.store.get_metric_history
        info["run_name"] = run.info.name
    else:
        data = {
            "params": dict(run.data.params),
            "tags": dict(run.data.tags),
            "metrics": {key: number(value) for key, value in run.data.metrics.items()},
        }
        history = client.get_metric_history
    answer = {
        "info": info,
        "data": data,
        "metric_history": {key: points(history(run_id, key)) for key in data["metrics"]},
    }
    inputs = getattr(run, "inputs", None)
    if inputs is not None:
        answer["inputs"] = {
            "dataset_inputs": sorted(
                [
                    {
                        "dataset": fields(d.dataset, "name digest source_type source schema profile"),
                        "tags": {t.key: t.value for t in d.tags},
                    }
                    for d in inputs.dataset_inputs
                ],
                key=lambda d: (d["dataset"]["name"], d["dataset"]["digest"]),
            ),
            "model_inputs": sorted(m.model_id for m in getattr(inputs, "model_inputs", None) or []),
        }
    outputs = getattr(run, "outputs", None)
    if outputs is not None:
        answer["outputs"] = {
            "model_outputs": sorted(
                (fields(m, "model_id step") for m in outputs.model_outputs), key=lambda m: m["model_id"]
            )
        }
    return answer


def read_trace(client, trace_id):
    """A trace in the words of MLflow 3, with its spans where they can be read."""
    found = client.get_trace(trace_id)
    info = found.info
    answer = {
        "trace_id": trace_id,
        "experiment_id": info.experiment_id,
        "request_time": getattr(info, "request_time", None) or info.timestamp_ms,
        "execution_duration": getattr(info, "execution_duration", None)
        if hasattr(info, "execution_duration")
        else info.execution_time_ms,
        "state": str(getattr(info, "state", None) or info.status).split(".")[-1],
        "tags": dict(info.tags),
        "trace_metadata": dict(info.trace_metadata if hasattr(info, "trace_metadata") else info.request_metadata),
        "spans": [],
    }
    answer.update(fields(info, "request_preview response_preview client_request_id"))
    if hasattr(info, "assessments"):
        listed = [a.to_dictionary() for a in info.assessments or []]
        answer["assessments"] = sorted(listed, key=lambda a: a["assessment_id"])
    for span in found.data.spans:
        answer["spans"].append(
            dict(
                fields(span, "span_id parent_id name span_type start_time_ns end_time_ns inputs outputs"),
                status=str(getattr(span.status.status_code, "value", span.status.status_code)),
                attributes=json.loads(json.dumps(span.attributes, default=str)),
                events=[event.name for event in span.events],
            )
        )
    answer["spans"].sort(key=lambda s: s["span_id"])
    return answer


def read_registry(client):
    """Registered models (prompts too) and their versions."""
    models, versions, prompts_found = {}, {}, {}
    search = getattr(client, "search_registered_models", None) or client.list_registered_models
    listed = list(search())
    if hasattr(client, "search_registered_models") and knows(search, "filter_string"):
        for text in ("tags.`mlflow.prompt.is_prompt` = 'true'", "tag.`mlflow.prompt.is_prompt` = 'true'"):
            if VERSION >= (2, 21):
                listed += attempt("search for prompts", search, filter_string=text) or []
    for model in listed:
        name = model.name
        if name in models or name in prompts_found:
            continue
        if "mlflow.prompt.is_prompt" in (getattr(model, "_tags", None) or {}):
            prompts_found[name] = attempt("read prompt " + name, read_prompt, client, name)
            prompts_found[name].update(fields(model, "creation_timestamp description"))
            continue
        model = (
            client.get_registered_model(name)
            if hasattr(client, "get_registered_model")
            else client.get_registered_model_details(name)
        )
        models[name] = fields(model, "name creation_timestamp last_updated_timestamp description tags aliases")
        models[name]["latest_versions"] = {v.current_stage: str(v.version) for v in model.latest_versions or []}
        for version in client.search_model_versions("name='%s'" % name):
            key = "%s/%s" % (name, version.version)
            if hasattr(client, "get_model_version"):
                version = client.get_model_version(name, str(version.version))
            versions[key] = fields(
                version,
                "name creation_timestamp last_updated_timestamp current_stage description source "
                "run_id run_link status status_message user_id tags aliases model_id",
            )
            versions[key]["version"] = str(version.version)
            if hasattr(client, "get_model_version_download_uri"):
                versions[key]["download_uri"] = client.get_model_version_download_uri(name, str(version.version))
    answers = {"registered_models": models, "model_versions": versions}
    if prompts_found:
        answers["prompts"] = prompts_found
    return answers


def read_prompt(client, name):
    """A prompt and its versions; the number of versions is known: one or two."""
    load = getattr(client, "load_prompt", None) or mlflow.load_prompt
    found = {"versions": {}}
    for version in range(1, 3 if name == "summarise" else 2):
        prompt = load("prompts:/%s/%d" % (name, version))
        found["versions"][str(version)] = dict(
            fields(prompt, "template commit_message creation_timestamp tags version_metadata aliases")
        )
    found["production"] = None
    if name == "summarise":
        found["production"] = str(load("prompts:/summarise@production").version)
    if hasattr(client, "get_prompt"):
        found["tags"] = dict(client.get_prompt(name).tags)
    return found


def read(w):
    """All of it, as this release answers."""
    client = w.client
    answers = {"mlflow_version": mlflow.__version__, "store": KIND, "experiments": {}, "runs": {}}
    for experiment_id in ["0"] + w.experiments:
        e = attempt("get experiment " + experiment_id, client.get_experiment, experiment_id)
        if e is not None:
            answers["experiments"][experiment_id] = fields(
                e, "name artifact_location lifecycle_stage creation_time last_update_time tags"
            )
    listing = []
    if hasattr(client, "search_experiments"):
        listing = client.search_experiments(view_type=ViewType.ALL)
    elif knows(client.list_experiments, "view_type"):
        listing = client.list_experiments(view_type=ViewType.ALL)
    if listing:
        answers["all_experiment_ids"] = sorted(str(e.experiment_id) for e in listing)
    for run_id in w.runs:
        answer = attempt("get run " + run_id, read_run, client, run_id)
        if answer is not None:
            answers["runs"][run_id] = answer
    answers["search_runs"] = {}
    for experiment_id in answers["experiments"]:
        for view, name in ((ViewType.ACTIVE_ONLY, "active"), (ViewType.DELETED_ONLY, "deleted")):
            found = attempt("search runs", client.search_runs, [experiment_id], "", run_view_type=view)
            answers["search_runs"].setdefault(experiment_id, {})[name] = (
                None if found is None else sorted(run_id_of(run) for run in found)
            )
    if hasattr(client, "create_registered_model") and "model registry" not in REFUSED:
        answers.update(read_registry(client))
    if w.models:
        answers["logged_models"] = {}
        for model_id in w.models:
            model = attempt("get logged model " + model_id, client.get_logged_model, model_id)
            if model is not None:
                answers["logged_models"][model_id] = dict(
                    fields(
                        model,
                        "experiment_id name artifact_location creation_timestamp "
                        "last_updated_timestamp model_type source_run_id status status_message "
                        "tags params",
                    ),
                    status=str(model.status).split(".")[-1],
                    metrics=points(model.metrics or []),
                )
    if w.traces:
        answers["traces"] = {}
        for trace_id in w.traces:
            answer = attempt("get trace " + trace_id, read_trace, client, trace_id)
            if answer is not None:
                answers["traces"][trace_id] = answer
    store = getattr(getattr(client, "_tracking_client", None), "store", None)
    if KIND == "sqlite" and VERSION >= (3, 3):
        answers.update(attempt("read SQL kinds", read_sql_only, client, store, w) or {})
    return answers


def read_sql_only(client, store, w):
    """Webhooks, scorers and evaluation datasets."""
    answers = {"webhooks": {}, "scorers": {}, "evaluation_datasets": {}}
    for hook in client.list_webhooks():
        answers["webhooks"][hook.name] = fields(hook, "webhook_id url description status")
        answers["webhooks"][hook.name]["status"] = str(getattr(hook.status, "value", hook.status))
        answers["webhooks"][hook.name]["events"] = sorted(str(event) for event in hook.events)
    if hasattr(store, "list_scorers"):
        for scorer in store.list_scorers(w.experiments[0]):
            for version in store.list_scorer_versions(w.experiments[0], scorer.scorer_name):
                key = "%s/%s" % (scorer.scorer_name, version.scorer_version)
                answers["scorers"][key] = version._serialized_scorer
    if hasattr(client, "search_datasets"):
        for dataset in client.search_datasets():
            records, _ = store._load_dataset_records(dataset.dataset_id)
            answers["evaluation_datasets"][dataset.dataset_id] = {
                "name": dataset.name,
                "digest": dataset.digest,
                "tags": dataset.tags,
                "experiment_ids": sorted(store.get_dataset_experiment_ids(dataset.dataset_id)),
                "records": sorted(
                    ({"inputs": r.inputs, "expectations": r.expectations, "tags": r.tags} for r in records),
                    key=lambda r: json.dumps(r["inputs"], sort_keys=True),
                ),
            }
    return answers


def golden():
    """Write and read a golden store."""
    good = probe()
    client = connect("mlruns" if KIND == "files" else "mlflow")
    w = Writer(client)
    made = tracking(w, good)
    if hasattr(client, "create_registered_model"):
        registry(w, made)
    if hasattr(client, "log_inputs"):
        datasets(w, made)
    if hasattr(client, "create_logged_model"):
        logged_models(w, made)
    if hasattr(client, "start_trace") and VERSION >= (2, 14):
        traces(w, made)
    prompts(w)
    if KIND == "sqlite" and VERSION >= (3, 3):
        sql_only(w, made)
    client.delete_experiment(made["doomed"])
    answers = read(w)
    if KIND == "sqlite" and VERSION >= (2, 5):
        answers["auth"] = attempt("auth", auth, made)
    answers["refused"] = REFUSED
    with open("answers.json", "w", encoding="utf-8") as out:
        json.dump(answers, out, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False)
        out.write("\n")
    shutil.rmtree("probe", ignore_errors=True)
    for name in ("probe.db", "probe.db-wal", "probe.db-shm"):
        if os.path.exists(name):
            os.remove(name)
    if KIND == "sqlite":
        shutil.rmtree("mlruns", ignore_errors=True)


def wait(seconds):
    """Let the clock run: work takes time in the sample."""
    CLOCK["now"] += seconds


def train(w, experiment, name, params, losses, aucs, parent=None, tags=None, keys=("train/loss", "val/auc")):
    """A training run of the sample: params, a loss and a validation score per epoch."""
    wait(240)
    every = {"mlflow.user": "ann", "mlflow.source.name": "train.py", "mlflow.source.type": "LOCAL"}
    every.update(tags or {})
    if parent:
        every["mlflow.parentRunId"] = parent
    run_id = w.client.create_run(experiment, tags=every, run_name=name).info.run_id
    for key, value in params.items():
        w.client.log_param(run_id, key, value)
    for epoch, loss in enumerate(losses):
        wait(20)
        now = int(time.time() * 1000)
        w.client.log_metric(run_id, keys[0], loss, now, epoch)
        if epoch < len(aucs):
            w.client.log_metric(run_id, keys[1], aucs[epoch], now, epoch)
    return run_id


def ask(w, experiment, question, source, answer, session):
    """A trace of the sample: a question, what was found, the answer or an error."""
    mlflow.set_experiment(experiment_id=experiment)
    wait(95)
    with mlflow.start_span(name="answer_question", span_type="CHAIN") as root:
        root.set_inputs({"question": question})
        mlflow.update_current_trace(
            tags={"channel": "web"},
            metadata={"mlflow.trace.session": session, "mlflow.trace.user": "customer-1184"},
        )
        with mlflow.start_span(name="search_contracts", span_type="RETRIEVER") as search:
            wait(0.18)
            search.set_inputs({"query": question})
            search.set_outputs([{"page_content": source, "metadata": {"doc_uri": "terms/2025.md"}}])
        with mlflow.start_span(name="generate", span_type="CHAT_MODEL") as model:
            wait(1.4)
            model.set_inputs({"messages": [{"role": "user", "content": question}]})
            if answer is None:
                late = TimeoutError("the model did not answer in time")
                model.add_event(mlflow.entities.SpanEvent.from_exception(late))
                model.set_status("ERROR")
                root.set_status("ERROR")
            else:
                usage = {"input_tokens": 96, "output_tokens": 31, "total_tokens": 127}
                model.set_attribute("mlflow.chat.tokenUsage", usage)
                model.set_outputs({"role": "assistant", "content": answer})
        root.set_outputs(answer and {"answer": answer})
    return root.trace_id, search.span_id


def sample():
    """Write the sample FileStore: a small team's churn model and support assistant."""
    from mlflow.entities import (
        AssessmentError,
        AssessmentSource,
        Dataset,
        DatasetInput,
        InputTag,
        LoggedModelInput,
        LoggedModelOutput,
    )

    client = connect("mlruns")
    w = Writer(client)
    nan, inf = float("nan"), float("inf")
    first_try = client.create_experiment("churn-first-try")
    churn = client.create_experiment(
        "churn-model", tags={"team": "growth", "mlflow.note.content": "Who will cancel next month?"}
    )
    support = client.create_experiment("support-assistant", tags={"team": "support"})

    tried = train(w, first_try, "notebook", {"model": "logreg"}, [0.69, 0.68], [0.55])
    client.set_terminated(tried)
    client.delete_experiment(first_try)

    wait(86400)
    baseline = train(
        w, churn, "logreg-baseline", {"model": "logreg", "C": "1.0"}, [0.62, 0.54, 0.51], [0.71, 0.74, 0.752]
    )
    client.log_text(baseline, "tn=4312 fp=391\nfn=702 tp=638\n", "confusion_matrix.txt")
    client.set_terminated(baseline)
    sweep = train(
        w,
        churn,
        "gbdt-sweep",
        {"model": "gbdt", "grid": "max_depth: [3, 6, 12]\nlearning_rate: [0.1]\n"},
        [0.4],
        [0.83],
    )
    shallow = train(
        w,
        churn,
        "gbdt-depth-3",
        {"max_depth": 3, "learning_rate": 0.1},
        [0.58, 0.49, 0.44, 0.42],
        [0.77, 0.80, 0.812, 0.815],
        sweep,
    )
    client.set_terminated(shallow)
    best = train(
        w,
        churn,
        "gbdt-depth-6",
        {"max_depth": 6, "learning_rate": 0.1},
        [0.55, 0.45, 0.41, 0.4],
        [0.79, 0.82, 0.83, 0.8314],
        sweep,
        {"reviewed by": "Zoë"},
    )
    client.set_terminated(best)
    broken = train(
        w,
        churn,
        "gbdt-depth-12",
        {"max_depth": 12, "learning_rate": 10},
        [0.9, 57.3, inf, nan],
        [0.61, 0.5, nan],
        sweep,
    )
    client.set_terminated(broken, "FAILED")
    client.set_terminated(sweep)
    wrong = train(w, churn, "wrong-labels", {"model": "gbdt"}, [0.1, 0.01], [0.99])
    client.set_terminated(wrong, "KILLED")
    client.delete_run(wrong)

    schema = {
        "mlflow_colspec": [
            {"type": "double", "name": "tenure_months", "required": True},
            {"type": "boolean", "name": "churned", "required": True},
        ]
    }
    customers = Dataset(
        "customers-2025-10",
        "5b1f0c7e",
        "local",
        json.dumps({"uri": "data/customers-2025-10.parquet"}),
        schema=json.dumps(schema),
        profile=json.dumps({"num_rows": 6043, "num_elements": 12086}),
    )
    holdout = Dataset("customers-holdout", "c02a94d1", "s3", json.dumps({"uri": "s3://growth-data/holdout.parquet"}))
    for run_id in (baseline, best):
        client.log_inputs(run_id, [DatasetInput(customers, [InputTag("mlflow.data.context", "training")])])
    client.log_inputs(best, [DatasetInput(holdout, [InputTag("mlflow.data.context", "evaluation")])])

    model = client.create_logged_model(
        churn,
        name="churn-gbdt",
        source_run_id=best,
        tags={"framework": "scikit-learn"},
        params={"max_depth": "6", "learning_rate": "0.1"},
        model_type="classifier",
    )
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(best, [LoggedModelOutput(model.model_id, 3)])
    client.log_metric(
        best,
        "holdout/auc",
        0.8271,
        int(time.time() * 1000),
        3,
        dataset_name="customers-holdout",
        dataset_digest="c02a94d1",
        model_id=model.model_id,
    )
    nightly = train(w, churn, "nightly-scoring", {"model_uri": "models:/churn-model@champion"}, [0.41], [0.829])
    client.log_inputs(nightly, datasets=[], models=[LoggedModelInput(model.model_id)])

    client.create_registered_model("churn-model", {"owner": "ann"}, "Who will cancel next month?")
    client.create_model_version(
        "churn-model",
        "runs:/%s/model" % baseline,
        baseline,
        {"validation": "passed"},
        description="Logistic regression",
    )
    client.create_model_version(
        "churn-model",
        "models:/" + model.model_id,
        best,
        {"validation": "passed"},
        description="Gradient boosting, depth 6",
        model_id=model.model_id,
    )
    client.transition_model_version_stage("churn-model", "1", "Archived")
    client.transition_model_version_stage("churn-model", "2", "Production")
    client.set_registered_model_alias("churn-model", "champion", "2")
    client.register_prompt("support-answer", "Answer briefly: {{question}}", "First version")
    client.register_prompt(
        "support-answer",
        "Answer in two sentences, citing the terms.\n\nTerms: {{terms}}\nQuestion: {{question}}",
        "Cite the terms",
        tags={"reviewed": "yes"},
    )
    client.set_prompt_alias("support-answer", "production", 2)

    wait(86400)
    terms = "A contract ends one month after notice; notice by e-mail is enough."
    good, found = ask(
        w,
        support,
        "Can I cancel by e-mail?",
        terms,
        "Yes, an e-mail is enough. Your contract then ends a month later.",
        "chat-301",
    )
    poor, _ = ask(w, support, "Und wie kündige ich? 🙂", terms, "Per E-Mail.", "chat-301")
    ask(w, support, "Please list all my invoices.", "Invoices are kept for ten years.", None, "chat-302")
    judge = AssessmentSource("LLM_JUDGE", "openai:/gpt-5-mini")
    human = AssessmentSource("HUMAN", "zoe@example.com")
    wait(1800)
    mlflow.log_feedback(
        trace_id=good, name="grounded", value=True, source=judge, rationale="The terms say so.", span_id=found
    )
    mlflow.log_feedback(trace_id=good, name="helpfulness", value=0.9, source=judge, metadata={"prompt": "v2"})
    mlflow.log_feedback(
        trace_id=poor,
        name="tone",
        value="too short",
        source=human,
        rationale="Greets nobody.\nSays nothing of the term.",
    )
    mlflow.log_feedback(
        trace_id=poor,
        name="grounded",
        source=judge,
        error=AssessmentError("RATE_LIMIT", "429 from the judge's endpoint"),
    )
    mlflow.log_expectation(trace_id=good, name="must_mention", value=["e-mail", "one month"], source=human)
    mlflow.log_expectation(trace_id=good, name="facts", value={"notice_months": 1, "by_email": True}, source=human)
    review = train(
        w,
        support,
        "prompt-review",
        {"prompt": "prompts:/support-answer/2"},
        [41.0, 38.5, 37.0],
        [0.78, 0.84, 0.86],
        keys=("answer/words", "judge/helpfulness"),
    )
    client.set_terminated(review)


if __name__ == "__main__":
    if KIND == "sample":
        sample()
    else:
        golden()
