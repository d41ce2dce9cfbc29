"""What a containerd node is made of, as far as it needs neither Linux nor root."""

import json
import sys
import tarfile
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from kubetune_devcluster.containers import cleanup, environment, images, layout, requirements
from kubetune_devcluster.errors import LocalClusterError


def test_what_is_missing_is_named_with_a_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(requirements.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(requirements.os, "geteuid", lambda: 0)
    if sys.platform == "linux":
        assert "apt-get install runc" in (requirements.missing(tmp_path) or "")
    monkeypatch.setattr(requirements.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(requirements.sys, "platform", "linux")
    with pytest.raises(LocalClusterError, match=r"needs root.*--node process"):
        requirements.require(tmp_path)
    monkeypatch.setattr(requirements.sys, "platform", "darwin")
    assert "needs Linux" in (requirements.missing(tmp_path) or "")


def test_each_node_has_a_network_of_its_own_and_none_holds_the_nodes_address():
    networks = [layout.pod_network(number) for number in range(1, 255)]
    assert len(set(networks)) == len(networks)
    assert all(network.subnet_of(layout.NETWORK) for network in networks)
    assert not any(layout.NODE_ADDRESS in network for network in networks)
    assert layout.pod_network(7) == IPv4Network("10.199.7.0/24")


def test_an_image_is_an_archive_whose_parts_name_one_another(tmp_path: Path):
    program = tmp_path / "pause"
    program.write_bytes(b"program")
    image = images.Image(
        name="example.local/pause:latest",
        command=["/pause"],
        environment={"LANG": "C.UTF-8"},
        folders={"tmp": 0o1777},
        links={"bin": "usr/bin"},
        programs={"pause": program},
    )
    images.write(image, tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as archive:

        def content(descriptor: dict[str, str]) -> bytes:
            name = descriptor["digest"].replace(":", "/")
            file = archive.extractfile(f"blobs/{name}")
            assert file is not None
            return file.read()

        index = archive.extractfile("index.json")
        assert index is not None
        (described,) = json.load(index)["manifests"]
        manifest = json.loads(content(described))
        config = json.loads(content(manifest["config"]))
        (layer,) = manifest["layers"]
        (tmp_path / "layer.tar").write_bytes(content(layer))
    assert described["annotations"] == {"io.containerd.image.name": "example.local/pause:latest"}
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    assert config["config"] == {"Cmd": ["/pause"], "Env": ["LANG=C.UTF-8"]}
    with tarfile.open(tmp_path / "layer.tar") as files:
        assert files.getmember("pause").mode == 0o755
        assert files.getmember("tmp").mode == 0o1777
        assert files.getmember("bin").linkname == "usr/bin"


def test_a_run_gets_this_environment_and_nothing_of_a_home_folder():
    mounts = {mount.target: mount.source for mount in environment.mounts()}
    assert mounts[environment.ENVIRONMENT] == Path(sys.prefix)
    sources = {source for target, source in mounts.items() if "/source/" in target}
    assert {(root / "kubetune_runner").is_dir() for root in sources} == {True, False}
    assert Path.home() not in mounts.values()
    path = environment.image().environment["PATH"]
    assert path.startswith(f"{environment.ENVIRONMENT}/bin:")


def test_mounts_below_a_folder_are_found_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "overlay /home/it/containers/a overlay rw 0 0\n"
        "tmpfs /home/it tmpfs rw 0 0\n"
        "tmpfs /home/item/b tmpfs rw 0 0\n"
        "tmpfs /home/it/with\\040space tmpfs rw 0 0\n"
    )
    monkeypatch.setattr(cleanup, "MOUNTS", mounts)
    below = [Path("/home/it/containers/a"), Path("/home/it/with space")]
    assert cleanup.mounts_below(Path("/home/it")) == below
    with pytest.raises(LocalClusterError, match="still mounted"):
        cleanup.require_unmounted(Path("/home/it"))
