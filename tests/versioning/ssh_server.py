"""An SSH server on loopback: OpenSSH's `sshd` where the machine has it, else asyncssh's, which
comes with dvc-ssh.

Keys, port and configuration are its own, in one folder; nothing of the machine's user or system is
read or written. As a program (`python ssh_server.py PORT FOLDER`) it is the second of the two.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import asyncssh

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""


class SshServer:
    """Up between `start` and `stop`; `key` is let in, `other_key` is not."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self.folder, self.key, self.other_key, self.process = (
            folder,
            folder / "key",
            folder / "other_key",
            None,
        )
        for name in ("host_key", "key", "other_key"):
            made = asyncssh.generate_private_key("ssh-ed25519")
            made.write_private_key(str(folder / name))
            (folder / name).chmod(0o600)
            made.write_public_key(str(folder / f"{name}.pub"))
        shutil.copy(folder / "key.pub", folder / "authorized_keys")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "sshd_config").write_text(CONFIG.format(port=self.port, folder=folder))

    def command(self) -> list[str]:
        """sshd must be called by its absolute path, and is not used where it would not run (no
        /run/sshd, say).
        """
        sshd = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        config = str(self.folder / "sshd_config")
        if sshd and subprocess.run([sshd, "-t", "-f", config], capture_output=True).returncode == 0:
            return [sshd, "-D", "-e", "-f", config]
        return [sys.executable, __file__, str(self.port), str(self.folder)]

    def start(self, command: list[str] | None = None) -> None:
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command or self.command(), stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as door:
                if door.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text()[-2000:])

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


async def serve(port: int, folder: Path) -> None:
    await asyncssh.listen(
        "127.0.0.1",
        port,
        server_host_keys=[str(folder / "host_key")],
        authorized_client_keys=str(folder / "authorized_keys"),
        sftp_factory=True,
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
