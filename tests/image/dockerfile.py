"""Carries out a Dockerfile without an engine for images: stages are overlays, RUN is a chroot.

It knows the instructions that images/ use and refuses any other, so that no step is left out.
FROM takes a folder with the base image's files instead of pulling them; COPY obeys .dockerignore.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 3600
PASSED_ON = re.compile(r"(?i)^(.*_proxy|.*_ca_.*|ssl_cert_.*|pip_cert|pip_index_url|uv_.*index.*)$")
"""Variables of this machine by which package registries are reached."""
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


class UnknownInstructionError(Exception):
    """The Dockerfile has a step that this can't carry out."""


@dataclass(frozen=True)
class Instruction:
    """One step: its name in capitals, its flags (``--from=build``) and the rest as it stands."""

    name: str
    flags: dict[str, str]
    text: str


@dataclass
class Stage:
    """One FROM: what it adds to the base's files, and the configuration so far."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict[str, str])
    arguments: dict[str, str] = field(default_factory=dict[str, str])
    directory: str = "/"
    user: str = "0"
    command: list[str] = field(default_factory=list[str])

    @property
    def added(self) -> Path:
        """The files that the stage has written."""
        return self.folder / "added"


def parse(text: str) -> list[Instruction]:
    """The steps of a Dockerfile; comments may stand between the lines of one."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [_instruction(line.strip()) for line in joined.splitlines() if line.strip()]


def _instruction(line: str) -> Instruction:
    name, _, rest = line.partition(" ")
    flags: dict[str, str] = {}
    while (found := re.match(r"--([a-z]+)=(\S+)\s+", rest)) is not None:
        flags[found[1]] = found[2]
        rest = rest[found.end() :]
    return Instruction(name.upper(), flags, rest.strip())


class Build:
    """The stages of one build, in a folder that must lie on a real file system.

    ``base`` has the files of the image that every FROM names, ``arguments`` are --build-arg, and
    ``cache`` holds what ``--mount=type=cache`` keeps.
    """

    def __init__(
        self, context: Path, base: Path, work: Path, cache: Path, arguments: Mapping[str, str]
    ) -> None:
        self.context, self.base, self.work, self.cache = context, base, work, cache
        self.given = dict(arguments)
        self.stages: dict[str, Stage] = {}

    def run(self, dockerfile: Path) -> Stage:
        """Carry out every step; returns the last stage."""
        stage: Stage | None = None
        for step in parse(dockerfile.read_text()):
            if step.name == "FROM":
                stage = self._begin(step)
            elif stage is None:
                raise UnknownInstructionError(f"{step.name} before FROM")
            else:
                self._carry_out(stage, step)
        assert stage is not None
        return stage

    def shell(self, stage: Stage, script: str, *, writable: bool = True) -> str:
        """The output of a script as root, outside of the tree; $TREE is the stage's whole tree."""
        tree, scratch = stage.folder / "tree", stage.folder / "scratch"
        for folder in (tree, scratch, stage.added):
            folder.mkdir(parents=True, exist_ok=True)
        upper = f"upperdir={stage.added},workdir={scratch}"
        layers = (
            f"lowerdir={self.base},{upper}" if writable else f"lowerdir={stage.added}:{self.base}"
        )
        mounting = f"mount -t overlay overlay -o {layers} {tree}"
        # The mounts are those of the process, and end with it.
        command = ["unshare", "--mount", "--propagation=private", "sh", "-euc"]
        result = subprocess.run(
            [*command, f"{mounting}\n{script}"],
            env={**os.environ, "TREE": str(tree)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        if result.returncode:
            tail = (result.stdout + result.stderr)[-4000:]
            raise RuntimeError(f"step ended with {result.returncode}: {script[-300:]}\n{tail}")
        return result.stdout

    def _begin(self, step: Instruction) -> Stage:
        image, _, name = re.sub(r"(?i)\s+AS\s+", " ", step.text).partition(" ")
        if not image.startswith("python:"):
            raise UnknownInstructionError(f"FROM {image}: only the base of python is there")
        stage = Stage(self.work / f"stage-{len(self.stages)}")
        stage.variables["PATH"] = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
        self.stages[name or str(len(self.stages))] = stage
        return stage

    def _carry_out(self, stage: Stage, step: Instruction) -> None:
        if step.name == "RUN":
            self._run(stage, step)
        elif step.name == "COPY":
            self._copy(stage, step)
        elif step.name == "ENV":
            pairs = (word.partition("=") for word in shlex.split(step.text))
            values = {name: self._filled(stage, value) for name, _, value in pairs}
            stage.variables |= values
        elif step.name == "ARG":
            name, _, default = step.text.partition("=")
            stage.arguments[name] = self.given.get(name, default)
        elif step.name == "WORKDIR":
            stage.directory = step.text
            self.shell(stage, f"mkdir -p $TREE{step.text}")
        elif step.name == "USER":
            stage.user = step.text
        elif step.name == "CMD":
            stage.command = [str(word) for word in _words(step.text)]
        else:
            raise UnknownInstructionError(f"{step.name} {step.text}")

    def _filled(self, stage: Stage, value: str) -> str:
        known = {**stage.arguments, **stage.variables}
        return re.sub(r"\$\{?(\w+)\}?", lambda found: known.get(found[1], ""), value)

    def _run(self, stage: Stage, step: Instruction) -> None:
        mounts = [
            "mount --rbind /dev $TREE/dev",
            "mount -t proc proc $TREE/proc",
            "cat /etc/resolv.conf > $TREE/etc/resolv.conf",
        ]
        if AUTHORITIES.exists():
            mounts.append(f"mkdir -p $TREE{AUTHORITIES.parent}; touch $TREE{AUTHORITIES}")
            mounts.append(f"mount --bind {AUTHORITIES} $TREE{AUTHORITIES}")
        if "mount" in step.flags:
            given = dict(part.split("=", 1) for part in step.flags["mount"].split(","))
            if given["type"] != "cache":
                raise UnknownInstructionError(f"RUN --mount={step.flags['mount']}")
            self.cache.mkdir(parents=True, exist_ok=True)
            mounts.append(f"mkdir -p $TREE{given['target']}")
            mounts.append(f"mount --bind {self.cache} $TREE{given['target']}")
        machine = {name: value for name, value in os.environ.items() if PASSED_ON.match(name)}
        variables = {"HOME": "/root", **machine, **stage.arguments, **stage.variables}
        given_all = [f"{name}={value}" for name, value in variables.items()]
        inside = f"cd {shlex.quote(stage.directory)} && {step.text}"
        user, _, group = stage.user.partition(":")
        chroot = ["chroot", f"--userspec={user}:{group or user}", "$TREE", "/usr/bin/env", "-i"]
        quoted = [word if word == "$TREE" else shlex.quote(word) for word in chroot]
        quoted += [shlex.quote(word) for word in (*given_all, "/bin/sh", "-c", inside)]
        self.shell(stage, "\n".join([*mounts, " ".join(quoted)]))

    def _copy(self, stage: Stage, step: Instruction) -> None:
        *sources, target = shlex.split(step.text)
        inside = target if target.startswith("/") else f"{stage.directory.rstrip('/')}/{target}"
        for source in sources:
            if "from" in step.flags:
                # Both are files of a stage: linked, as nothing writes into them any more.
                path = self.stages[step.flags["from"]].added / source.lstrip("/")
                copy = "cp -al"
            else:
                path, copy = self._seen(source), "cp -a"
            folder = inside if target.endswith("/") else str(Path(inside).parent)
            place = f"{inside.rstrip('/')}/{path.name}" if target.endswith("/") else inside
            if copy == "cp -al":
                # Not into the mounted tree: links don't lead from one file system to another.
                (stage.added / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "-al", path, stage.added / place.lstrip("/")], check=True)
            else:
                command = f"mkdir -p $TREE{folder}; {copy} {path} $TREE{place}"
                self.shell(stage, f"{command}; chown -R 0:0 $TREE{place}")

    def _seen(self, source: str) -> Path:
        """What the context shows of a path, with what .dockerignore hides left out."""
        shown = self.work / "context" / source
        if not shown.exists():
            shown.parent.mkdir(parents=True, exist_ok=True)
            path = self.context / source
            if not _visible(source, self._rules()):
                raise FileNotFoundError(f"COPY {source}: .dockerignore hides it")
            if path.is_dir():
                hidden = shutil.ignore_patterns("__pycache__")
                shutil.copytree(path, shown, ignore=hidden, symlinks=True)
            else:
                shutil.copy2(path, shown)
        return shown

    def _rules(self) -> list[str]:
        lines = (self.context / ".dockerignore").read_text().splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _visible(path: str, rules: list[str]) -> bool:
    """Whether .dockerignore lets a file or folder through: the last rule that matches decides."""
    visible = True
    names = [str(parent) for parent in Path(path).parents if str(parent) != "."] + [path]
    for rule in rules:
        pattern = rule.removeprefix("!").removeprefix("**/").rstrip("/")
        if any(fnmatch.fnmatch(name, pattern) for name in names):
            visible = rule.startswith("!")
    return visible


def _words(text: str) -> list[str]:
    if not text.startswith("["):
        return ["/bin/sh", "-c", text]
    import json

    return json.loads(text)
