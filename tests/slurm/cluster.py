"""A real Slurm with accounting, of two nodes on this machine alone: Debian's daemons in a folder of their own.

Accounting is no luxury: submitit asks sacct whether a job has ended. Needs root and what `make test-slurm` installs.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
DATABASE = """
CREATE DATABASE IF NOT EXISTS accounting;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
GRANT ALL ON accounting.* TO 'slurm'@'127.0.0.1';
"""
SLURMDBD = """
AuthType=auth/munge
DbdHost=localhost
DbdPort={port}2
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={port}1
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounting
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""
SLURM = """
ClusterName=tickets
SlurmctldHost=localhost
SlurmctldPort={port}3
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
KillWait=5
OverTimeLimit=0
JobRequeue=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={port}2
JobAcctGatherType=jobacct_gather/none
NodeName=n1 NodeHostname=localhost Port={port}4 CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname=localhost Port={port}5 CPUs=1 RealMemory=4000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Daemons that are not installed."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [name for name in DAEMONS if shutil.which(name, path=path) is None]


@contextlib.contextmanager
def cluster(folder: Path, port: int = 1783) -> Iterator[Path]:
    """Start it; yields the file for SLURM_CONF. Ports are `port` followed by one more digit."""
    for name in ("state", "mysql"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        log = (folder / f"{Path(command[0]).name}.out").open("ab")
        with log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))

    try:
        _munge(start)
        _database(folder, port, start)
        (folder / "slurmdbd.conf").write_text(SLURMDBD.format(folder=folder, port=port))
        (folder / "slurmdbd.conf").chmod(0o600)
        conf = folder / "slurm.conf"
        conf.write_text(SLURM.format(folder=folder, port=port))
        os.environ["SLURM_CONF"] = str(conf)
        start("slurmdbd", "-D")
        wait_until(lambda: ok("sacctmgr", "-n", "list", "cluster"), "slurmdbd")
        ok("sacctmgr", "-i", "add", "cluster", "tickets")
        start("slurmctld", "-D", "-f", str(conf))
        for node in ("n1", "n2"):
            start("slurmd", "-D", "-N", node, "-f", str(conf))
        wait_until(lambda: output("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2", "the nodes")
        yield conf
    finally:
        os.environ.pop("SLURM_CONF", None)
        for process in reversed(started):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Meanwhile jobs that were put back start at once; Slurm would let them wait for two minutes."""
    ended = threading.Event()

    def hurry() -> None:
        while not ended.wait(1.0):
            for line in output("squeue", "-h", "--array", "-t", "PD", "-o", "%i %r").splitlines():
                if line.endswith("BeginTime"):
                    ok("scontrol", "update", f"jobid={line.split()[0]}", "starttime=now")

    thread = threading.Thread(target=hurry)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def ok(*command: str) -> bool:
    """Whether a command ends well."""
    return subprocess.run(command, capture_output=True).returncode == 0


def output(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True).stdout


def wait_until(there: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    """Look again and again."""
    limit = time.monotonic() + seconds
    while not there():
        if time.monotonic() > limit:
            raise TimeoutError(f"{what}: not there after {seconds:g} seconds")
        time.sleep(0.3)


def _munge(start: Callable[..., None]) -> None:
    """The daemon that signs messages, unless one runs."""
    if ok("munge", "-n"):
        return
    if not Path("/etc/munge/munge.key").exists():
        subprocess.run(["mungekey", "--create", "--force"], check=True)
    user = pwd.getpwnam("munge")
    Path("/run/munge").mkdir(exist_ok=True)
    os.chown("/run/munge", user.pw_uid, user.pw_gid)
    start("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged", "--foreground", "--force")
    wait_until(lambda: ok("munge", "-n"), "munged")


def _database(folder: Path, port: int, start: Callable[..., None]) -> None:
    user = pwd.getpwnam("mysql")
    os.chown(folder / "mysql", user.pw_uid, user.pw_gid)
    data, socket = f"--datadir={folder / 'mysql'}", f"--socket={folder / 'mysql' / 'sock'}"
    subprocess.run(["mariadb-install-db", "--user=mysql", data], check=True, capture_output=True)
    start("mariadbd", "--user=mysql", data, socket, f"--port={port}1", "--bind-address=127.0.0.1")
    wait_until(lambda: ok("mariadb", socket, "-e", "select 1"), "the database")
    subprocess.run(["mariadb", socket, "-e", DATABASE], check=True)
