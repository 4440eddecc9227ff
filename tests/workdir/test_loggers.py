"""Services that a run is logged to: each update once, over interruptions and failures; what is refused."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from rats_jax.errors import ConfigError, StoppedError
from rats_jax.workdir import services
from rats_jax.workdir.loggers import open_loggers
from rats_jax.workdir.metrics import MetricsWriter
from rats_jax.workdir.services import Table, expect_loggers


class Package(ModuleType):
    """Stands in for wandb or trackio: keeps what runs are opened with and what they get."""

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = SimpleNamespace(origin="here", name=name)
        self.mode, self.known, self.first_step, self.fails_at = "online", True, 0, None
        self.opened, self.logged, self.ended = [], [], []

    def init(self, **arguments):
        self.opened.append(arguments)
        return SimpleNamespace(log=self.log, finish=self.finish, step=self.first_step)

    def log(self, row, *, step):
        if step == self.fails_at:
            raise OSError("the network is down")
        self.logged.append((step, row))

    def finish(self, exit_code=None):
        self.ended.append(exit_code)

    def setup(self):
        return SimpleNamespace(settings=SimpleNamespace(mode=self.mode))

    def login(self, *, prompt, verify):
        assert not prompt and not verify
        return self.known

    @staticmethod
    def Image(file):
        return "image", file

    @staticmethod
    def Table(columns, data):
        return "table", columns, data


@pytest.fixture
def package(monkeypatch):
    def put(name):
        monkeypatch.setitem(sys.modules, name, made := Package(name))
        return made

    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_DIR", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return put


def run(folder, names, *, first, last, error=None, said=None):
    """Make updates first .. last as a run does: metrics of each, sheets of 0 and of 4, a table at 6."""
    config = {"loggers": names, "seed": 3, "gate": {"kind": "hard"}}
    say = [].append if said is None else said.append
    with open_loggers(config, "runs/my emoji", folder, writes=True, say=say) as loggers:
        with MetricsWriter(folder, step=first - 1, tensorboard=False) as writer:
            loggers.follow()
            for step in range(first, last + 1):
                writer.write(step, {"loss": float(step)})
                loggers.log(step, {"loss": float(step)})
                if step in (1, 4):
                    sheet = folder / "samples" / f"step_{step // 4 * 4:06d}.png"
                    sheet.parent.mkdir(exist_ok=True)
                    sheet.touch()
                    writer.write_samples(step // 4 * 4, {"motion": 0.5})
                    loggers.log_sheet(step // 4 * 4, sheet, {"motion": 0.5})
            if error:
                raise error
        if last == 6:
            loggers.log_tables(
                6, {"table": Table(["contestant", "reward"], [["student, 4 evaluations", 2.5]])}
            )


def steps(package):
    return [step for step, row in package.logged if "table" not in row]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_scalars_sheets_config_and_table(package, tmp_path, name):
    service = package(name)
    run(tmp_path, ("tensorboard", name), first=1, last=6)
    (opened,) = service.opened
    assert opened["project"] == "rats_jax" and opened["resume"] == "allow"
    assert opened["config"] == {"loggers": ["tensorboard", name], "seed": 3, "gate": {"kind": "hard"}}
    rows = dict(service.logged[:-1])
    assert steps(service) == [0, 1, 2, 3, 4, 5, 6]  # the sheet of update 0 comes after update 1
    picture = "image", str(tmp_path / "samples" / "step_000004.png")
    assert rows[4] == {"loss": 4.0, "samples/sheet": picture, "samples/motion": 0.5}
    assert rows[0]["samples/motion"] == 0.5 and "loss" not in rows[0]
    table = "table", ["contestant", "reward"], [["student, 4 evaluations", 2.5]]
    assert service.logged[-1] == (6, {"table": table, "table/reward/student": 2.5})
    assert service.ended == [0 if name == "wandb" else None]


def test_a_resumed_run_goes_on_in_the_same_and_sends_no_update_twice(package, tmp_path):
    wandb = package("wandb")
    with pytest.raises(StoppedError):
        run(tmp_path, ("wandb",), first=1, last=3, error=StoppedError("asked to"))
    assert wandb.ended == [75]
    with pytest.raises(KeyboardInterrupt):  # from a checkpoint of before
        run(tmp_path, ("wandb",), first=3, last=4, error=KeyboardInterrupt())
    run(tmp_path, ("wandb",), first=4, last=6)
    run(tmp_path, ("wandb",), first=7, last=6)  # what is finished is told again
    assert steps(wandb) == [0, 1, 2, 3, 4, 5, 6] and len(wandb.logged) == 8
    ids = [opened["id"] for opened in wandb.opened]
    assert len(ids) == 4 and len(set(ids)) == 1 and ids[0].startswith("my-emoji-")
    assert wandb.opened[0]["name"] == "my-emoji" and wandb.opened[0]["dir"] == str(tmp_path)


def test_what_the_service_has_is_believed(package, tmp_path):
    """A bucket gets loggers.json with each checkpoint, so that of a killed run it may say too little."""
    wandb = package("wandb")
    run(tmp_path, ("wandb",), first=1, last=3)
    known = json.loads((tmp_path / "loggers.json").read_text())
    assert known["wandb"]["step"] == 3
    (tmp_path / "loggers.json").write_text(json.dumps({"wandb": known["wandb"] | {"step": 1}}))
    wandb.first_step = 4
    run(tmp_path, ("wandb",), first=2, last=5)
    assert steps(wandb) == [0, 1, 2, 3, 4, 5]


def test_one_that_is_added_later_gets_what_was_before(package, tmp_path):
    wandb = package("wandb")
    run(tmp_path, ("tensorboard",), first=1, last=4)
    assert not (tmp_path / "loggers.json").exists() and wandb.opened == []
    run(tmp_path, ("wandb",), first=5, last=6)
    assert steps(wandb) == [0, 1, 2, 3, 4, 5, 6]
    assert dict(wandb.logged)[4]["samples/sheet"] == ("image", str(tmp_path / "samples" / "step_000004.png"))


def test_a_failing_service_loses_neither_the_run_nor_what_it_missed(package, tmp_path):
    wandb, trackio, said = package("wandb"), package("trackio"), []
    wandb.fails_at = 3
    run(tmp_path, ("wandb", "trackio"), first=1, last=5, said=said)
    (line,) = said
    assert line.startswith("warning: loggers='wandb': it takes no more of this run (the network is down); ")
    assert steps(wandb) == [0, 1, 2] and steps(trackio) == [0, 1, 2, 3, 4, 5]
    wandb.fails_at = None
    run(tmp_path, ("wandb", "trackio"), first=6, last=6, said=said)
    assert steps(wandb) == steps(trackio) == [0, 1, 2, 3, 4, 5, 6] and len(said) == 1


def test_videos_are_the_file_that_plays(package, tmp_path):
    trackio = package("trackio")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "step_000004.webp").touch()
    run(tmp_path, (), first=1, last=4)
    run(tmp_path, ("trackio",), first=5, last=5)
    assert dict(trackio.logged)[4]["samples/sheet"][1].endswith("step_000004.webp")


def test_other_processes_open_nothing(package, tmp_path):
    wandb = package("wandb")
    with open_loggers({"loggers": ("wandb",)}, "run", tmp_path, writes=False, say=print) as loggers:
        loggers.log(1, {"loss": 1.0})
        loggers.log(2, {"loss": 1.0})
    assert wandb.opened == [] and list(tmp_path.iterdir()) == []


def test_what_cannot_be_opened_is_one_line_and_ends_the_others(package, tmp_path, monkeypatch):
    wandb = package("wandb")

    def fail(start):
        raise OSError("no such host")

    monkeypatch.setitem(services.OPENERS, "trackio", fail)
    with pytest.raises(
        ConfigError, match=r"^loggers='trackio': expected a run that can be .*\(no such host\)"
    ):
        run(tmp_path, ("wandb", "trackio"), first=1, last=2)
    assert wandb.ended == [1]


@pytest.mark.parametrize("content", ["{", '{"wandb": {"id": 3}}', "[]"])
def test_a_damaged_file_is_named(package, tmp_path, content):
    package("wandb")
    (tmp_path / "loggers.json").write_text(content)
    with pytest.raises(ConfigError, match=r"loggers.json': expected the runs of loggers as JSON"):
        run(tmp_path, ("wandb",), first=1, last=2)


def test_missing_packages_and_log_ins_are_one_line(package, monkeypatch):
    expect_loggers(("tensorboard",))
    wandb = package("wandb")
    expect_loggers(("wandb",))
    wandb.known = False
    with pytest.raises(
        ConfigError, match=r"loggers='wandb': expected a log-in, from `wandb login` or in WANDB_A"
    ):
        expect_loggers(("tensorboard", "wandb"))
    wandb.mode = "offline"
    expect_loggers(("wandb",))
    monkeypatch.setattr(services, "find_spec", lambda name: SimpleNamespace(origin=None))  # a folder of runs
    with pytest.raises(
        ConfigError, match=r"loggers='trackio': expected its package: pip install .rats_jax\[trackio"
    ):
        expect_loggers(("trackio",))
