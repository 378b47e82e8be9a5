"""Tables of files and labels: what is read, and what is refused."""

import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

from resnetlab.data import manifest, open_dataset
from resnetlab.data.classes import ClassChoice
from resnetlab.data.folder import scan
from resnetlab.data.shard_layout import Member
from resnetlab.data.shards import write_shard
from resnetlab.errors import BadInput


def write(folder, text, name="m.csv", files=("a/1.png", "a/2.png", "b/3.png", "b/4.png"), encoding="utf-8"):
    folder.mkdir(exist_ok=True)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


PLAIN = "file,label\na/1.png,cat\na/2.png,cat\nb/3.png,dog\nb/4.png,dog\n"


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("m.csv", PLAIN, "utf-8"),
        ("m.csv", PLAIN, "utf-8-sig"),
        ("m.csv", PLAIN, "utf-16"),
        ("m.csv", PLAIN.replace("\n", "\r\n"), "utf-8"),
        ("M.CSV", PLAIN.replace(",", ";"), "utf-8"),
        ("m.tsv", PLAIN.replace(",", "\t"), "utf-8"),
        ("m.csv", PLAIN.replace(",", "\t"), "utf-8"),
        ("m.csv", PLAIN.replace(",", ", ").replace("cat\n", "cat \n") + "\n,\n\n", "utf-8"),
        (
            "m.csv",
            'id,"Image Path",CLASS\n1,"a/1.png","cat"\n2,./a/2.png,cat\n3,b/../b/3.png,dog\n4,b/4.png,dog',
            "utf-8",
        ),
        ("m.csv", "label,file\ncat,a\\1.png\ncat,a\\2.png\ndog,b\\3.png\ndog,b\\4.png\n", "utf-8"),
        ("m.csv", "sep=;\r\n" + PLAIN.replace(",", ";").replace("\n", "\r\n"), "utf-8-sig"),
        ("m.csv", "sep=|\n" + PLAIN.replace(",", "|"), "utf-8"),
        ("m.csv", "\n\r\n" + PLAIN.replace(",", ";"), "utf-8"),
        ("m.csv", PLAIN.replace(",", ";").replace("\n", "\r"), "utf-8"),
        ("m.csv", "label,filename,path_note\ncat,a/1.png,\ncat,a/2.png,\ndog,b/3.png,\ndog,b/4.png,x\n", "utf-8"),
    ],
)
def test_tables_of_many_forms_are_read(tmp_path, name, text, encoding):
    listing = scan(write(tmp_path, text, name, encoding=encoding))
    assert listing.root == tmp_path
    assert listing.classes == ("cat", "dog")
    assert listing.train.names == ("a/1.png", "a/2.png", "b/3.png", "b/4.png")
    assert listing.train.labels.tolist() == [0, 0, 1, 1]
    assert (listing.val, listing.test, listing.notes) == (None, None, ())


def test_splits_and_groups_are_columns(tmp_path):
    rows = ("a/1.png,cat,Training,p1", "a/2.png,cat,test,p2", "b/3.png,dog,train,p3", "b/4.png,dog,TEST,p4")
    text = "\n".join(["file,label,split,group", *rows])
    listing = scan(write(tmp_path, text))
    assert (listing.layout, listing.train.names, listing.test.names) == (
        "train/test",
        ("a/1.png", "b/3.png"),
        ("a/2.png", "b/4.png"),
    )
    assert listing.train.groups == ("p1", "p3")
    assert "4 groups" in listing.notes[0]
    assert scan(write(tmp_path, text.replace("p2", "p1"))).test.groups == ("p1", "p4")
    named = text.replace("group\n", "patient\n").replace("p2", "p1")
    assert scan(write(tmp_path, named)).train.groups is None
    assert scan(write(tmp_path, named), group_by="patient").test.groups == ("p1", "p4")
    assert scan(write(tmp_path, named), group_by=r"(\d)\.png").test.groups == ("2", "4")
    with pytest.raises(
        BadInput, match=r"'patent', which matches no text .* none of the columns 'file', 'label', 'split'"
    ):
        scan(write(tmp_path, named), group_by="patent")


def test_text_that_was_marked_for_spreadsheets_is_restored(tmp_path):
    text = "file,label\n'=1.png,'-1\n'-2.png,'-1\n'quoted'.png,+1\n"
    listing = scan(write(tmp_path, text, files=("=1.png", "-2.png", "'quoted'.png")))
    assert (listing.classes, len(listing)) == (("+1", "-1"), 3)


WRONG = {
    "no header": ("a/1.png,cat\na/2.png,dog\n", "no column named file or label; the first line must name the columns"),
    "no label": ("file,x\na/1.png,1\n", "no column named label; .* it has 'file', 'x'"),
    "two files": ("path,image,label\na/1.png,x,cat\n", "each of the columns 'path', 'image' may be the file; name one"),
    "empty": ("", "no column named file or label"),
    "no rows": ("file,label\n\n", "lists no images"),
    "no text": ("file,label\n\0\0", "not a table of text"),
    "empty labels": (PLAIN.replace(",dog", ","), "2 of 4 rows have no label, first in line 4; fill the cells in"),
    "ragged": (PLAIN + "a/1.png\n", "line 6: 1 cells, but the first line has 2 columns"),
    "open quote": (PLAIN + '"a/1.png,cat\n', "not a table in CSV"),
    "missing": (
        PLAIN + "c/5.png,cat\nc/6.png,dog\n",
        "2 of 6 rows have a file that is not in .* line 6: 'c/5.png'; correct",
    ),
    "no suffix": (PLAIN.replace(".png", ""), "4 of 4 rows .*; the file names need their suffix, such as .jpg"),
    "two labels": (
        PLAIN + "a/1.png,dog\n",
        "1 image has two labels, first 'a/1.png': 'cat' in line 2, 'dog' in line 6",
    ),
    "two splits": (
        "file,label,split\na/1.png,cat,train\n./a/1.png,cat,test\n",
        "1 image has two splits, first 'a/1.png'",
    ),
    "outside": (
        PLAIN + "../x.png,cat\n",
        "1 of 5 rows has a file outside .*, first in line 6: '../x.png'; give the folder",
    ),
    "absolute": (PLAIN + "/etc/passwd,cat\n", "a file outside .*'/etc/passwd'"),
    "drive": (PLAIN + "C:\\x.png,cat\n", "a file outside .*'C:/x.png'"),
    "a folder": (PLAIN + "a,cat\n", "a file that is not in"),
    "a long name": (PLAIN + "x" * 5000 + ",cat\n", "a file that is not in"),
    "unknown split": (
        "file,label,split\na/1.png,cat,pred\n",
        "1 of 1 rows has an unknown split, first in line 2: 'pred'; use",
    ),
    "no split": ("file,label,split\na/1.png,cat,\na/2.png,cat,train\n", "have no split|has no split"),
    "no train": ("file,label,split\na/1.png,cat,test\nb/3.png,dog,test\n", "has test, but no"),
    "one class": ("file,label\na/1.png,cat\n", "one class only, 'cat'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_table_that_cannot_be_trusted_is_refused(tmp_path, case):
    text, sentence = WRONG[case]
    with pytest.raises(BadInput, match=sentence):
        scan(write(tmp_path, text))


def test_repeated_rows_count_once(tmp_path):
    listing = scan(write(tmp_path, PLAIN + "a/1.png,cat\n"))
    assert (len(listing), listing.notes) == (4, ("1 row repeats another and is left out",))


def test_paths_may_be_relative_to_another_folder_or_absolute_inside_it(tmp_path):
    table = write(tmp_path / "tables", PLAIN.replace("a/1.png", f"{tmp_path}/data/a/1.png"), files=())
    for name in ("a/1.png", "a/2.png", "b/3.png", "b/4.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    with pytest.raises(BadInput, match=r"outside .*`root="):
        scan(table)
    listing = scan(table, root=tmp_path / "data")
    assert (listing.root, listing.train.names[0]) == (tmp_path / "data", "a/1.png")
    with pytest.raises(BadInput, match=r"folder not found: .*nowhere"):
        scan(table, root=tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"file not found: .*x.csv"):
        scan(tmp_path / "x.csv")


def test_bytes_that_are_no_text_and_names_that_are_no_utf8(tmp_path):
    (tmp_path / "m.csv").write_bytes(bytes(range(256)) * 9)
    with pytest.raises(BadInput):
        scan(tmp_path / "m.csv")
    if sys.platform != "linux":
        return
    name = b"\xff.png".decode(errors="surrogateescape")
    (tmp_path / name).touch()
    (tmp_path / "2.png").touch()
    (tmp_path / "m.csv").write_bytes(b"file,label\n\xff.png,a\n2.png,b\n")
    assert scan(tmp_path / "m.csv").train.names == (name, "2.png")


def test_text_in_another_encoding_is_refused_and_never_a_class(tmp_path):
    table = write(tmp_path, PLAIN.replace("dog", "Bär"), encoding="cp1252")
    with pytest.raises(BadInput, match=r"2 of 4 rows have text that is not UTF-8, first in line 4: .*; save .* UTF-8"):
        scan(table)
    table = write(tmp_path, PLAIN.replace("b/3", "b/ä"), encoding="cp1252")
    with pytest.raises(BadInput, match=r"1 of 4 rows has a file .*; it is not UTF-8: save the table as CSV in UTF-8"):
        scan(table)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS finds a name in both Unicode forms")
@pytest.mark.parametrize(("on_disk", "in_table"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_found_in_the_other_unicode_form(tmp_path, on_disk, in_table):
    there, given = (unicodedata.normalize(form, "Bär/é.png") for form in (on_disk, in_table))
    table = write(tmp_path, f"file,label\n{given},cat\na/1.png,dog\n", files=(there, "a/1.png"))
    assert set(scan(table).train.names) == {there, "a/1.png"}


def test_a_file_whose_name_has_other_case_is_named(tmp_path):
    table = write(tmp_path, PLAIN.replace("a/1.png", "A/1.PNG"), files=("a/1.png", "a/2.png", "b/3.png", "b/4.png"))
    if (tmp_path / "A/1.PNG").exists():
        pytest.skip("this file system finds names in any case")
    with pytest.raises(BadInput, match=r"first in line 2: 'A/1.PNG'; there is 'a/1.png': write the names as they are"):
        scan(table)


def test_absolute_paths_through_a_link_to_the_folder_are_inside_it(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    table = write(tmp_path / "real", PLAIN.replace("a/1.png", f"{tmp_path}/link/a/1.png"))
    for path in (table, tmp_path / "link/m.csv"):
        assert scan(path).train.names == ("a/1.png", "a/2.png", "b/3.png", "b/4.png")


def test_a_table_that_is_a_link_is_read_once(tmp_path, monkeypatch):
    """Its images are beside the link or, if none is there, beside the table: that depends on its rows."""
    read, times = manifest._table, []
    monkeypatch.setattr(manifest, "_table", lambda path: times.append(path) or read(path))
    table, link = write(tmp_path / "real", PLAIN), tmp_path / "link/pets.csv"
    link.parent.mkdir()
    link.symlink_to(table)
    assert scan(link).root == tmp_path / "real"
    assert len(times) == 1
    write(tmp_path / "link", "", "other.csv")
    assert scan(link).root == tmp_path / "link"
    table.write_text(PLAIN.replace("a/1.png", f"{tmp_path}/real/a/1.png"))  # outside of the folder of the link
    assert scan(link).root == tmp_path / "real"


def test_classes_of_a_table_are_chosen_and_merged(tmp_path):
    listing = scan(write(tmp_path, PLAIN.replace("b/4.png,dog", "b/4.png,Dog")), ClassChoice(merge=("dog=dog,Dog",)))
    assert (listing.classes, listing.train.labels.tolist()) == (("cat", "dog"), [0, 0, 1, 1])
    assert "differ only in case" in " ".join(scan(tmp_path / "m.csv").notes)


def test_columns_without_any_value_are_no_columns(tmp_path):
    rows = ("a/1.png,cat,,", "a/2.png,cat,,", "b/3.png,dog,,")
    listing = scan(write(tmp_path, "\n".join(["file,label,split,group", *rows])))
    assert (listing.layout, listing.train.groups) == ("classes", None)
    with pytest.raises(BadInput, match="2 of 3 rows have no split"):
        scan(write(tmp_path, "\n".join(["file,label,split", "a/1.png,cat,", "a/2.png,cat,", "b/3.png,dog,train"])))


def test_parquet_needs_its_packages_or_is_read(tmp_path):
    table = write(tmp_path, "", "m.parquet")
    try:
        import pandas
        import pyarrow  # noqa: F401
    except ImportError:
        with pytest.raises(BadInput, match=r"needs pandas and pyarrow|cannot be read as Parquet"):
            scan(table)
        return
    with pytest.raises(BadInput, match=r"cannot be read as Parquet"):
        scan(table)
    frame = pandas.DataFrame({"file": ["a/1.png", "a/2.png", "b/3.png"], "label": [0.0, 0.0, 1.0], "group": [7, 8, 9]})
    frame.to_parquet(table)
    listing = scan(table)
    assert (listing.classes, listing.train.groups) == (("0", "1"), ("7", "8", "9"))
    frame.set_index("file").to_parquet(table)
    assert scan(table).train.names == ("a/1.png", "a/2.png", "b/3.png")


def test_a_table_is_opened_as_a_data_set(tmp_path):
    rows = ["file,label,plant"]
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{'ab'[i % 2]},plant{i // 4}")
    (tmp_path / "plants.csv").write_text("\n".join(rows))
    opened = open_dataset(tmp_path / "plants.csv", group_by="plant")
    assert opened.name == "plants"
    assert opened.classes == ("a", "b")
    assert sum(map(len, (opened.train, opened.val, opened.test))) == 40
    plants = [{int(name[:-4]) // 4 for name in part.names} for part in (opened.train, opened.val, opened.test)]
    assert sorted(plant for split in plants for plant in split) == list(range(10))


def test_eval_in_a_table_is_the_split_that_a_folder_of_this_name_is(tmp_path):
    files = [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(4)]

    def listed(*splits):
        rows = [f"{name}/{i}.png,{name},{split}" for name in ("cat", "dog") for i, split in enumerate(splits)]
        return scan(write(tmp_path, "\n".join(["file,label,split", *rows]), files=files))

    listing = listed("train", "valid", "eval")
    assert (listing.layout, listing.test.names) == ("train/val/test", ("cat/2.png", "dog/2.png"))
    listing = listed("train", "Evaluation", "test")
    assert (listing.layout, listing.val.names) == ("train/val/test", ("cat/1.png", "dog/1.png"))
    with pytest.raises(BadInput, match="2 of 8 rows have an unknown split, first in line 5: 'eval'"):
        listed("train", "val", "test", "eval")


def test_a_table_lists_images_in_shards(tmp_path):
    members = [(Member(f"{name}/{i}.png", name, 0), bytes([i + 1])) for name in ("cat", "dog") for i in range(3)]
    write_shard(tmp_path / "a.tar", members, 0)
    rows = [f"a.tar/{member.name},{member.label}" for member, _ in members]
    table = write(tmp_path, "\n".join(["file,label", *rows]), files=())
    assert scan(table).train.names == tuple(sorted(f"a.tar/{member.name}" for member, _ in members))
    (tmp_path / "link").mkdir()
    (tmp_path / "link/m.csv").symlink_to(table)
    assert scan(tmp_path / "link/m.csv").root == tmp_path
    table.write_text("\n".join(["file,label", *rows, "a.tar/cat/9.png,cat"]))
    with pytest.raises(BadInput, match=r"1 of 7 rows has a file that is not in .*'a\.tar/cat/9\.png'"):
        scan(table)


def test_images_and_lists_in_the_cells_of_parquet_are_refused(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    table = write(tmp_path, "", "m.parquet")
    columns = {"file": ["a/1.png", "b/3.png"], "label": ["cat", b"dog"], "vector": [np.ones(3), np.ones(3)]}

    def read(**changed):
        monkeypatch.setattr(pandas, "read_parquet", lambda _: pandas.DataFrame({**columns, **changed}))
        return scan(table)

    assert read().classes == ("cat", "dog")
    images = [{"bytes": b"\xff\xd8", "path": "1.png"}, {"bytes": b"\xff\xd8", "path": "2.png"}]
    for changed in ({"file": images}, {"file": [b"\xff\xd8", b"\xff"]}, {"label": [["cat"], ["dog", "cat"]]}):
        with pytest.raises(BadInput, match=r"2 of 2 rows have an image, a list or a structure in a cell, .*; give"):
            read(**changed)
