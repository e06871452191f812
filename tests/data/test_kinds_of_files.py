"""Every kind of file is read from a real one, made by another program's own library, and gives what was put in."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

import undiffuse
from tests.data.test_sources import opened, picture, save
from undiffuse.data.config import DataConfig
from undiffuse.data.sources import SOURCES, file_kind, of_images
from undiffuse.errors import UsageError

PICTURES = {f"{name}/{k}.png": picture(7 * k + len(name)) for name in ("cat", "horse") for k in range(3)}
FLOATS = np.random.default_rng(1).normal(size=(9, 4, 5)).astype(np.float32)


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path, members):
    with tarfile.open(path, "w:" + {"tar": "", "gz": "gz", "xz": "xz", "bz2": "bz2"}[path.suffix[1:]]) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def packed(path, members):
    return zipped(path, members) if path.suffix == ".zip" else tarred(path, members)


ARCHIVES = ("a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.tar.bz2")


@pytest.fixture
def folder(tmp_path):
    for name, array in PICTURES.items():
        save(tmp_path / "folder" / name, array)
    return opened(tmp_path / "folder")


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("top", ["", "photos/of mine/"])
def test_an_archive_is_the_folder_that_was_packed(tmp_path, folder, name, top):
    members = {f"{top}{name}": png(array) for name, array in PICTURES.items()}
    members |= {"__MACOSX/cat/._0.png": b"x", f"{top}README.md": b"not a picture", f"{top}.hidden.png": b"x"}
    data = opened(packed(tmp_path / name, members))
    assert np.array_equal(data.values, folder.values)
    assert data.classes == folder.classes == ("cat", "horse")
    assert np.array_equal(data.labels, folder.labels)
    assert data.columns["file"].tolist() == folder.columns["file"].tolist()
    assert any("README.md" in note for note in data.notes)
    assert of_images(DataConfig(source=str(tmp_path / name)))


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_folder_in_an_archive_is_data_of_its_own(tmp_path, folder, name):
    members = {f"{part}/{each}": png(array) for part in ("train", "test") for each, array in PICTURES.items()}
    data = opened(packed(tmp_path / name, members) / "train")
    assert np.array_equal(data.values, folder.values)
    assert data.classes == ("cat", "horse")


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("member", ["../a.png", "/etc/a.png", "x/../../a.png", "C:\\a.png", "x\\..\\a.png"])
def test_an_archive_that_leads_out_of_itself_is_refused(tmp_path, name, member):
    with pytest.raises(UsageError, match="lie outside it"):
        opened(packed(tmp_path / name, {"a.png": png(picture()), member: png(picture())}))


def test_links_in_an_archive_are_left_out(tmp_path):
    path = tarred(tmp_path / "a.tar", {"a.png": png(picture()), "b.png": png(picture(1))})
    with tarfile.open(path, "a:") as archive:
        info = tarfile.TarInfo("c.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    data = opened(path)
    assert len(data) == 2
    assert any("c.png" in note and "links" in note for note in data.notes)


@pytest.mark.parametrize("name", ARCHIVES)
def test_damaged_and_empty_archives_are_one_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 no archive at all")
    with pytest.raises(UsageError, match="cannot be read as an archive"):
        opened(tmp_path / name)
    with pytest.raises(UsageError, match=r"no images in .*1 \.txt"):
        opened(packed(tmp_path / f"b{name}", {"a.txt": b"x"}))


def shard(first, count):
    members = {}
    for k in range(first, first + count):
        members[f"{k:04d}.png"] = png(picture(k))
        members[f"{k:04d}.cls"] = str(k % 3).encode()
        members[f"{k:04d}.txt"] = f"picture {k}".encode()
        members[f"{k:04d}.json"] = json.dumps({"age": k / 2, "camera": "b" if k % 2 else "a"}).encode()
    return members


@pytest.mark.parametrize("source", ["shards", "shards/part-{000..001}.tar"])
def test_shards_of_webdataset_are_one_data_set_with_what_they_say(tmp_path, source):
    (tmp_path / "shards").mkdir()
    tarred(tmp_path / "shards/part-000.tar", shard(0, 4))
    tarred(tmp_path / "shards/part-001.tar", shard(4, 3))
    data = opened(tmp_path / source)
    assert np.array_equal(data.values, np.stack([np.moveaxis(picture(k), -1, 0) for k in range(7)]))
    assert data.classes == ("0", "1", "2")
    assert data.labels.tolist() == [k % 3 for k in range(7)]
    assert data.columns["caption"].tolist() == [f"picture {k}" for k in range(7)]
    assert data.columns["age"].tolist() == [k / 2 for k in range(7)]
    assert data.columns["camera"].tolist() == list("abababa")


@pytest.mark.parametrize("name", ARCHIVES)
def test_texts_beside_pictures_are_captions_and_folders_stay_classes(tmp_path, folder, name):
    members = {f"photos/{each}": png(array) for each, array in PICTURES.items()}
    members |= {f"photos/{each[:-4]}.txt": f"a {each[:-6]}".encode() for each in PICTURES if each != "horse/1.png"}
    data = opened(packed(tmp_path / name, members))
    assert data.classes == ("cat", "horse")
    assert np.array_equal(data.labels, folder.labels)
    assert data.columns["caption"].tolist() == ["a cat"] * 3 + ["a horse", "", "a horse"]
    assert not any("left out" in note for note in data.notes)


def test_what_cannot_be_read_in_a_shard_is_said(tmp_path):
    broken = {name: b"no picture" if name == "0007.png" else content for name, content in shard(0, 120).items()}
    data = opened(tarred(tmp_path / "a.tar", broken))
    assert len(data) == 119
    assert any("0007" in note and "skipped 1 of 120" in note for note in data.notes)


def test_shards_that_are_missing_are_named(tmp_path):
    tarred(tmp_path / "part-000.tar", shard(0, 2))
    with pytest.raises(UsageError, match=r"2 of the 3 shards .* part-001.tar, part-002.tar"):
        opened(tmp_path / "part-{000..002}.tar")


# Tables with pictures in them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["bytes", "struct"])
def test_parquet_with_pictures_as_bytes(tmp_path, form):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    contents = [png(picture(k)) for k in range(4)]
    cells = contents if form == "bytes" else [{"bytes": each, "path": None} for each in contents]
    parquet.write_table(
        arrow.table({"image": cells, "label": [1, 0, 1, 1], "age": [1.5, 2.5, None, 4.0]}), tmp_path / "a.parquet"
    )
    data = opened(tmp_path / "a.parquet")
    assert np.array_equal(data.values, np.stack([np.moveaxis(picture(k), -1, 0) for k in range(4)]))
    assert (data.classes, data.labels.tolist()) == (("0", "1"), [1, 0, 1, 1])
    assert np.array_equal(data.columns["age"], [1.5, 2.5, np.nan, 4.0], equal_nan=True)


def test_parquet_that_names_pictures_and_parquet_beside_pictures(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for k in range(3):
        save(tmp_path / f"{k}.png", picture(k))
    parquet.write_table(arrow.table({"file": ["2.png", "0.png", "1.png"], "age": [2, 0, 1]}), tmp_path / "t.parquet")
    assert np.array_equal(opened(tmp_path / "t.parquet").values[0], np.moveaxis(picture(2), -1, 0))
    assert opened(tmp_path, table=str(tmp_path / "t.parquet")).columns["age"].tolist() == [0, 1, 2]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UsageError, match=r"bad\.parquet cannot be read"):
        opened(tmp_path / "bad.parquet")


# Arrays -------------------------------------------------------------------------------------------------------------------


def write_hdf5(path, arrays, dims=None):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            dataset = file.create_dataset(name, data=array, chunks=True if np.ndim(array) else None)
            for axis, dim in enumerate((dims or {}).get(name, ())):
                dataset.dims[axis].label = dim
    return path


def write_zarr(path, arrays, dims=None, version=2):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    for name, array in arrays.items():
        named = (dims or {}).get(name)
        made = group.create_array(name, data=array, **({"dimension_names": named} if named and version == 3 else {}))
        if named and version == 2:
            made.attrs["_ARRAY_DIMENSIONS"] = list(named)
    return path


def write_netcdf(path, arrays, dims=None):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    variables = {
        name: ((dims or {}).get(name) or [f"{name}_{k}" for k in range(np.ndim(array))], array)
        for name, array in arrays.items()
    }
    xarray.Dataset(variables).to_netcdf(path, engine="h5netcdf")
    return path


WRITERS = {
    "a.h5": write_hdf5,
    "a.zarr": write_zarr,
    "b.zarr": lambda p, a, d=None: write_zarr(p, a, d, 3),
    "a.nc": write_netcdf,
}


@pytest.mark.parametrize("name", WRITERS)
def test_files_of_named_arrays(tmp_path, name):
    arrays = {
        "group/other" if name == "a.h5" else "other": np.arange(4.0),
        "images": FLOATS,
        "labels": np.arange(9) % 3,
        "age": np.arange(9) / 2,
    }
    data = opened(WRITERS[name](tmp_path / name, arrays))
    assert np.array_equal(data.values[:, 0], FLOATS)
    assert data.labels.tolist() == [0, 1, 2] * 3
    assert data.columns["age"].tolist() == (np.arange(9) / 2).tolist()
    assert any("not used: " in note and "other" in note for note in data.notes)


@pytest.mark.parametrize("name", WRITERS)
def test_which_array_is_said_by_its_name_and_several_are_channels(tmp_path, name):
    path = WRITERS[name](tmp_path / name, {"t2m": FLOATS, "u10": 2 * FLOATS, "small": FLOATS[:, :2]})
    with pytest.raises(UsageError, match=r"t2m \(9, 4, 5\).*`variable`"):
        opened(path)
    assert np.array_equal(opened(path, variable="u10").values[:, 0], 2 * FLOATS)
    assert np.array_equal(opened(path, variable="t2m,u10").values, np.stack([FLOATS, 2 * FLOATS], 1))
    with pytest.raises(UsageError, match=r"no array 'v10': it holds .*t2m \(9, 4, 5\)"):
        opened(path, variable="v10")
    with pytest.raises(UsageError, match="channels are of one shape"):
        opened(path, variable="t2m,small")


@pytest.mark.parametrize("name", WRITERS)
def test_axes_go_by_the_names_that_the_file_gives_them(tmp_path, name):
    field = np.random.default_rng(0).normal(size=(4, 5, 9, 2)).astype(np.float32)
    path = WRITERS[name](tmp_path / name, {"z": field}, {"z": ("latitude", "longitude", "time", "level")})
    data = opened(path)
    assert np.array_equal(data.values, field.transpose(2, 3, 0, 1))
    assert any("read as HWNC" in note for note in data.notes)
    assert np.array_equal(opened(path, layout="NHWC").values, field.transpose(0, 3, 1, 2))


def test_netcdf_of_the_classic_format_and_packed_values(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("scipy")
    packed_ = xarray.Dataset({"t": (("time", "y", "x"), FLOATS)})
    packed_.to_netcdf(
        tmp_path / "a.nc",
        engine="scipy",
        encoding={"t": {"dtype": "int16", "scale_factor": 0.001, "_FillValue": -32768}},
    )
    assert np.abs(opened(tmp_path / "a.nc").values[:, 0] - FLOATS).max() <= 0.0005 + 1e-6


@pytest.mark.parametrize("name", ["a.h5", "a.nc"])
def test_damaged_files_of_arrays_are_one_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n broken")
    with pytest.raises(UsageError, match=f"{name} cannot be read"):
        opened(tmp_path / name)


def test_npz_by_variable_and_a_folder_of_npy_files(tmp_path):
    np.savez(tmp_path / "a.npz", first=FLOATS, second=2 * FLOATS)
    assert np.array_equal(opened(tmp_path / "a.npz", variable="second").values[:, 0], 2 * FLOATS)
    with pytest.raises(UsageError, match="no array 'third': it holds first, second"):
        opened(tmp_path / "a.npz", variable="third")
    for k in range(6):
        place = tmp_path / "folder" / "ab"[k % 2] / f"{k}.npy"
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, FLOATS[k].astype(">f4"))
    data = opened(tmp_path / "folder")
    assert (data.classes, data.labels.tolist()) == (("a", "b"), [0, 0, 0, 1, 1, 1])
    assert np.array_equal(data.values[:, 0], FLOATS[[0, 2, 4, 1, 3, 5]])
    np.save(tmp_path / "folder/a/9.npy", FLOATS[0, :2])
    with pytest.raises(UsageError, match=r"a/9.npy is \(2, 5\) .* to one size and type"):
        opened(tmp_path / "folder")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_tiff_of_many_pages(tmp_path, dtype, channels):
    tifffile = pytest.importorskip("tifffile")
    pages = (np.random.default_rng(0).random((7, 6, 5, channels)) * 200).astype(dtype)
    if channels == 5:
        tifffile.imwrite(tmp_path / "a.tif", pages.transpose(0, 3, 1, 2), metadata={"axes": "TCYX"})
    else:
        tifffile.imwrite(
            tmp_path / "a.tif",
            pages[..., 0] if channels == 1 else pages,
            photometric="rgb" if channels == 3 else "minisblack",
        )
    data = opened(tmp_path / "a.tif")
    assert data.values.dtype == dtype
    assert np.array_equal(data.values, pages.transpose(0, 3, 1, 2))
    tifffile.imwrite(tmp_path / "one.tif", pages[0, ..., 0])
    with pytest.raises(UsageError, match="is one picture"):
        opened(tmp_path / "one.tif")
    (tmp_path / "bad.tif").write_bytes(b"II*\0 no")
    with pytest.raises(UsageError, match=r"bad\.tif cannot be read"):
        opened(tmp_path / "bad.tif")


AFFINE = np.array([[2.0, 0, 0, -10], [0, 3, 0, -20], [0, 0, 4, -30], [0, 0, 0, 1]])


def write_volume(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    if ".nii" in path.name:
        nibabel = pytest.importorskip("nibabel")
        nibabel.save(nibabel.Nifti1Image(values, AFFINE), path)
    else:
        nrrd = pytest.importorskip("nrrd")
        header = {
            "space": "left-posterior-superior",
            "space directions": AFFINE[:3, :3].T,
            "space origin": AFFINE[:3, 3],
        }
        nrrd.write(str(path), values, header)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_volumes_in_a_folder_and_slices_of_one(tmp_path, suffix):
    volumes = np.random.default_rng(0).integers(-500, 3000, (4, 6, 5, 3)).astype(np.int16)
    for k, values in enumerate(volumes):
        write_volume(tmp_path / "scans" / ("ill" if k % 2 else "well") / f"{k}{suffix}", values)
    data = opened(tmp_path / "scans")
    assert data.classes == ("ill", "well")
    assert data.values.dtype == np.int16
    assert np.array_equal(data.values[:, 0], volumes[[1, 3, 0, 2]].transpose(0, 3, 2, 1))
    assert np.allclose(data.columns["affine"][0].reshape(4, 4), AFFINE)
    one = opened(tmp_path / "scans/well" / f"0{suffix}")
    assert np.array_equal(one.values[:, 0], volumes[0].transpose(2, 1, 0))
    write_volume(tmp_path / "scans/well" / f"8{suffix}", volumes[0, :2])
    with pytest.raises(UsageError, match=rf"well/8{suffix} is \(2, 5, 3\)"):
        opened(tmp_path / "scans")
    (tmp_path / f"bad{suffix}").write_bytes(b"no volume")
    with pytest.raises(UsageError, match="cannot be read as a volume"):
        opened(tmp_path / f"bad{suffix}")


def test_scaled_volumes_have_the_values_that_are_meant(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    stored = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    image = nibabel.Nifti1Image(stored, AFFINE)
    image.header.set_slope_inter(0.5, -7)
    nibabel.save(image, tmp_path / "a.nii")
    meant = nibabel.load(tmp_path / "a.nii").get_fdata()
    assert np.array_equal(opened(tmp_path / "a.nii").values[:, 0], meant.transpose(2, 1, 0).astype(np.float32))


@pytest.mark.parametrize(
    ("suffix", "subtype", "dtype"),
    [(".wav", "PCM_16", np.int16), (".flac", "PCM_16", np.int16), (".wav", "FLOAT", np.float32)],
)
def test_recordings(tmp_path, suffix, subtype, dtype):
    soundfile = pytest.importorskip("soundfile")
    sounds = (np.random.default_rng(0).normal(size=(4, 100, 2)) * 0.2).clip(-1, 1)
    sounds = (sounds * 32767).astype(np.int16) if dtype == np.int16 else sounds.astype(np.float32)
    for k, sound in enumerate(sounds):
        (tmp_path / "ab"[k % 2]).mkdir(exist_ok=True)
        soundfile.write(tmp_path / "ab"[k % 2] / f"{k}{suffix}", sound[: 100 - k], 8000, subtype=subtype)
    data = opened(tmp_path)
    assert data.values.dtype == dtype
    assert np.array_equal(data.values, sounds[[0, 2, 1, 3], :97].transpose(0, 2, 1))
    assert set(data.columns["rate"]) == {8000.0}
    assert any("cut to the shortest, which leaves out 1.5%" in note for note in data.notes)
    soundfile.write(tmp_path / "a" / f"8{suffix}", sounds[0], 16000, subtype=subtype)
    with pytest.raises(UsageError, match="are of 2 rates: most have 8000, a/8"):
        opened(tmp_path)
    soundfile.write(tmp_path / "a" / f"8{suffix}", sounds[0, :9], 8000, subtype=subtype)
    assert opened(tmp_path).columns["length"].tolist() == [100, 98, 9, 99, 97]
    soundfile.write(tmp_path / "a" / f"8{suffix}", sounds[0, :0], 8000, subtype=subtype)
    with pytest.raises(UsageError, match=rf"a/8{suffix} (in .* is empty|cannot be read)"):
        opened(tmp_path)
    soundfile.write(tmp_path / "a" / f"8{suffix}", sounds[0][:, :1], 8000, subtype=subtype)
    with pytest.raises(UsageError, match="of 2 numbers of channels: most have 2, a/8"):
        opened(tmp_path)


def test_folders_of_any_kind_leave_out_what_folders_of_images_do(tmp_path):
    for place in ("a", "b", ".hidden", "@eaDir"):
        (tmp_path / place).mkdir()
        np.save(tmp_path / place / "0.npy", FLOATS[0])
    (tmp_path / "a" / "again").symlink_to(tmp_path / "b")
    (tmp_path / "a" / "readme.doc").write_text("x")
    data = opened(tmp_path)
    assert data.columns["file"].tolist() == ["a/0.npy", "b/0.npy"]
    assert any("readme.doc" in note and "no array known here" in note for note in data.notes)
    assert any("left out 2 folders" in note for note in data.notes)


@pytest.mark.parametrize("name", WRITERS)
def test_a_fault_of_the_program_is_not_the_files(tmp_path, name, monkeypatch):
    path = WRITERS[name](tmp_path / name, {"images": FLOATS})
    monkeypatch.setattr("undiffuse.data.readers.named_arrays.array_dataset", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        opened(path)


# The registry -------------------------------------------------------------------------------------------------------------


def test_a_kind_of_ones_own_is_read_and_comes_before_those_of_the_package(tmp_path):
    undiffuse.register_file_kind(
        "hex", (".hex", ".npy"), lambda path: [np.float32([k, k + 1]) for k in bytes.fromhex(path.read_text())]
    )
    for name in ("a.hex", "a.npy"):
        (tmp_path / name).write_text("0001ff")
        assert opened(tmp_path / name).values[:, :, 0].tolist() == [[0, 1], [1, 2], [255, 256]]
    with pytest.raises(UsageError, match="suffixes are"):
        undiffuse.register_file_kind("other", ".hex", len)
    with pytest.raises(UsageError, match="taken"):
        undiffuse.register_file_kind("hex", (".x",), len)


def test_what_is_no_kind_of_data_names_those_that_are(tmp_path):
    (tmp_path / "a.docx").write_text("x")
    assert file_kind(tmp_path / "a.docx") is None
    with pytest.raises(
        UsageError, match=r"a folder of images.*a Zarr store.*shards of WebDataset|shards of WebDataset.*a Zarr store"
    ):
        opened(tmp_path / "a.docx")
    assert "digits" in SOURCES
