"""Runs the process node: `python -m kubetune_devcluster.node --home DIR --kubeconfig FILE ...`.

SIGTERM leaves the pods running for the next node, SIGINT stops them first.
"""

# Only what is small may be imported up here: the zygote, and with it every shim, keeps it.
import argparse
import sys
from pathlib import Path

from . import mounts, shim


def main() -> int:
    options = _parse(sys.argv[1:])
    home: Path = options.home.absolute()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / "probe").mkdir(exist_ok=True)
    possible = options.mounts != "links" and mounts.probe(str(home / "probe"))
    if options.mounts == "namespaces" and not possible:
        print("--mounts namespaces: this system refuses mount namespaces", file=sys.stderr)
        return 2
    connection = shim.start_zygote(home / "shims.log")

    from .run import run

    return run(options, home, "namespaces" if possible else "links", connection)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kubetune_devcluster.node",
        description="A Kubernetes node whose pods are processes.",
    )
    parser.add_argument("--home", type=Path, required=True, help="folder for pods and logs")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="the node's identity")
    parser.add_argument("--name", default="process-node", help="name of the Node")
    parser.add_argument("--serving-cert", type=Path, required=True, help="certificate for logs")
    parser.add_argument("--serving-key", type=Path, required=True)
    parser.add_argument("--client-ca", type=Path, required=True, help="the API server's CA")
    parser.add_argument(
        "--api-client-name",
        default="kube-apiserver-kubelet-client",
        help="common name of the certificate with which the API server asks for logs",
    )
    parser.add_argument("--gpus", type=int, help="GPUs to offer; default: what nvidia-smi lists")
    parser.add_argument("--cpus", type=int, help="CPUs to offer; default: all")
    parser.add_argument("--memory", type=int, help="bytes of memory to offer; default: all")
    parser.add_argument(
        "--image",
        action="append",
        type=_image,
        default=[],
        metavar="NAME=FOLDER",
        help="let the Python environment in FOLDER stand for the image NAME; may be repeated",
    )
    parser.add_argument(
        "--mounts",
        choices=("auto", "namespaces", "links"),
        default="auto",
        help="how pods see their volumes; auto: namespaces where the system allows them",
    )
    return parser.parse_args(arguments)


def _image(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not name or not (Path(folder) / "bin" / "python").exists():
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=FOLDER with FOLDER/bin/python")
    return name, Path(folder).absolute()


if __name__ == "__main__":
    sys.exit(main())
