"""What a run reads: the model, its revision, and the texts of the data configs it uses."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import StorageAccess
from quantization_api.text import clean, did_you_mean
from quantization_api.workflow import (
    DataConfig,
    InputModel,
    LoadDatasetConfig,
    PreProcessDataConfig,
)
from quantizer.boundary.bounded_json import read_object
from quantizer.boundary.lfs import FETCH, IS_POINTER, POINTER_BYTES, is_pointer
from quantizer.calibration.text import MAX_TEXT_BYTES, PLAIN_SUFFIXES, SUFFIXES, read_rows
from quantizer.calibration.tokens import Preprocess
from quantizer.checkpoint.reader import SafetensorsReader
from quantizer.checkpoint.side_files import is_document, side_files
from quantizer.checkpoint.source import check_small, read_whole
from quantizer.checkpoint.weight_files import INDEX_NAME, MERGE, adapter_files
from quantizer.decoder.architecture import ModuleNames
from quantizer.decoder.layout import MAX_CONFIG_BYTES, DecoderLayout
from quantizer.decoder.model import DecoderModel
from quantizer.store.interface import BROKEN_HINT, DATA, MODEL, ObjectInfo, Store
from quantizer.store.location import Location, open_store
from quantizer.store.patience import Patience
from quantizer.store.source import StoreSource

GENERATION_CONFIG = "generation_config.json"
NAME_LIMIT = 256
NAMED = 3


@dataclass(frozen=True)
class Model:
    """An input model that was found to be supported. Nothing of it is in memory but names and shapes."""

    location: Location
    source: StoreSource
    layout: DecoderLayout
    broken: tuple[str, ...] = ()
    """Documents of its folder that are links to nothing."""

    @cached_property
    def revision(self) -> str:
        """The digest over its files: on disk the first call reads all of them (see `model_revision`)."""
        return model_revision(self.source, self.layout.reader)

    @property
    def architecture(self) -> str:
        """The architecture's name as config.json has it."""
        names = self.layout.raw_config.get("architectures")
        if not isinstance(names, list) or not names:
            return self.layout.architecture.model_type
        return clean(str(names[0]), NAME_LIMIT)

    @property
    def bytes(self) -> int:
        """Size of the tensors."""
        return self.layout.reader.bytes


@dataclass(frozen=True)
class Text:
    """The text of a data config."""

    rows: list[str]
    preprocess: Preprocess
    """How the rows become sequences."""
    revision: str
    """sha256 of the file."""


def open_model(
    uri: str,
    access: StorageAccess,
    on_bytes: Callable[[int], None] = lambda _: None,
    modules: ModuleNames | None = None,
    patience: Patience | None = None,
) -> Model:
    """Lists a model and checks that it can be quantized.

    modules: names of the modules of an architecture that is not in the table.

    Raises:
        QuantizationError: ModelNotFound, ModelUnsupported, AccessDenied, StorageUnavailable.
    """
    location = Location.of_input(uri)
    source = _model_source(location, access, on_bytes, patience)
    broken = _without_broken_documents(source)
    if "config.json" not in source.files:
        raise _no_config(location, list(source.files))
    layout = DecoderLayout.open(source, modules)
    DecoderModel(layout, torch.device("cpu")).try_out()
    _check_side_files(source)
    return Model(location, source, layout, broken)


def _model_source(
    location: Location,
    access: StorageAccess,
    on_bytes: Callable[[int], None],
    patience: Patience | None,
) -> StoreSource:
    """The files of a model; where there are none, the error says so if a file was named instead of its folder."""
    try:
        return StoreSource(open_store(location, MODEL, access, patience), MODEL, on_bytes)
    except QuantizationError as error:
        if error.category is not Category.MODEL_NOT_FOUND or error.hint == BROKEN_HINT:
            raise
        if not _is_file(location, access, patience):
            raise
        raise QuantizationError(
            Category.MODEL_NOT_FOUND,
            f"input model: {location.uri} is a file; a model is a folder with config.json and safetensors",
            f"Write the folder that the file lies in: {location.parent.uri}.",
        ) from error


def _is_file(location: Location, access: StorageAccess, patience: Patience | None) -> bool:
    try:
        return open_store(location.parent, MODEL, access, patience).head(location.name) is not None
    except QuantizationError:  # what its folder says is not what was asked
        return False


def _without_broken_documents(source: StoreSource) -> tuple[str, ...]:
    """Forgets links to nothing where a README or a licence was, and returns their names."""
    broken = tuple(name for name, info in source.files.items() if info.broken and is_document(name))
    for name in broken:
        del source.files[name]
    return broken


def _no_config(location: Location, found: list[str]) -> QuantizationError:
    """The error for a folder without config.json, with what to name or to do instead."""
    folders = [name.removesuffix("/config.json") for name in found if name.endswith("/config.json")]
    hint = ""
    if folders:
        hint = f"Write the folder that has it: {' or '.join(location.child(name).uri for name in folders[:NAMED])}."
    elif adapter_files(found):
        hint = MERGE
    return QuantizationError(
        Category.MODEL_NOT_FOUND,
        f"input model: {location.uri} has no config.json; it has {', '.join(found[:5])}",
        hint,
    )


def _check_side_files(source: StoreSource) -> None:
    """Checks what the artifact gets a copy of: small files, and a generation config that readers can load."""
    for name in side_files(source):
        if not name.isprintable():
            raise QuantizationError(
                Category.MODEL_UNSUPPORTED,
                f"the model has a file whose name is not printable: {name!a}",
                "Rename the file, or remove it.",
            )
        size = source.files[name].size
        check_small(name, size)
        if size <= POINTER_BYTES:
            read_whole(source, name)  # a pointer of git-lfs would be copied
    if GENERATION_CONFIG in source.files:
        data = read_whole(source, GENERATION_CONFIG, MAX_CONFIG_BYTES)
        read_object(
            data,
            Category.MODEL_UNSUPPORTED,
            GENERATION_CONFIG,
            limit=MAX_CONFIG_BYTES,
            hint="Correct the file, or remove it: readers then use their defaults.",
        )


def model_revision(source: StoreSource, reader: SafetensorsReader) -> str:
    """The revision of a model: over what decides the result (weights, config) and what is copied into it.

    Weights are the files that are read, also in subfolders. Other files of the directory (pictures, weights in other
    formats, safetensors that no index names) do not count.
    """
    names = set(reader.files) | {"config.json", INDEX_NAME} | set(side_files(source))
    return source.revision(name for name in names if name in source.files)


def check_revision(asked: InputModel, model: Model) -> None:
    """Raises ModelNotFound if the manifest asks for a revision other than the one found."""
    if asked.revision is not None and asked.revision != model.revision:
        raise QuantizationError(
            Category.MODEL_NOT_FOUND,
            f"input model: {model.location.uri} has revision {model.revision}, but "
            f"input_model.revision asks for {asked.revision}",
            "Point model_path at that revision, or correct input_model.revision.",
        )


DEFAULT_CALIBRATION = "default calibration"  # no name of a data config: those have no spaces
DEFAULT_SEQUENCES, DEFAULT_TOKENS = 128, 512  # AutoAWQ's own


def default_calibration(uri: str | None, max_positions: int) -> DataConfig:
    """What a pass without a data config calibrates with: as many and as long sequences as AutoAWQ takes.

    Raises:
        QuantizationError: DataNotFound when no text is set for it.
    """
    if not uri:
        raise QuantizationError(
            Category.DATA_NOT_FOUND,
            "the pass names no data_config, and no default calibration text is set; downloads from a hub are "
            "not available",
            "Name a data config in the pass, or set default_calibration in the operator's settings (locally: "
            "quantizer run --default-calibration).",
        )
    return DataConfig(
        name="default",
        load_dataset_config=LoadDatasetConfig(data_name=uri),
        pre_process_data_config=PreProcessDataConfig(
            max_seq_len=min(DEFAULT_TOKENS, max_positions), max_samples=DEFAULT_SEQUENCES
        ),
    )


def read_text(
    config: DataConfig,
    access: StorageAccess,
    on_bytes: Callable[[int], None] = lambda _: None,
    patience: Patience | None = None,
) -> Text:
    """Reads the file of a data config.

    Raises:
        QuantizationError: DataNotFound (saying what is there instead), AccessDenied, StorageUnavailable.
    """
    name, data = _read_file(config, access, patience)
    on_bytes(len(data))
    options = config.pre_process_data_config
    rows = read_rows(data, name, options.text_cols, by_line=options.strategy == "line-by-line")
    return Text(rows, _preprocess(options), hashlib.sha256(data).hexdigest())


def _preprocess(options: PreProcessDataConfig) -> Preprocess:
    return Preprocess(
        strategy=options.strategy,
        max_seq_len=options.max_seq_len,
        max_samples=options.max_samples,
        joiner=options.joiner,
        add_special_tokens=options.add_special_tokens,
    )


def _read(config: DataConfig, store: Store, info: ObjectInfo) -> bytes | bytearray:
    if info.size > MAX_TEXT_BYTES:
        raise QuantizationError(
            Category.DATA_NOT_FOUND,
            f"data config {config.name}: {info.key} has {info.size:,} bytes; at most {MAX_TEXT_BYTES:,} are read",
            "Use a part of the text; calibration reads only its beginning.",
        )
    data = store.read(info.key, 0, info.size, info.version)
    if is_pointer(data):
        raise QuantizationError(
            Category.DATA_NOT_FOUND, f"data config {config.name}: {info.key} {IS_POINTER}", FETCH
        )
    return bytes(data) if isinstance(data, memoryview) else data


def _splits(files: list[str]) -> list[str]:
    """The names of splits that a folder with these files has."""
    return [name.removesuffix(suffix) for name in files for suffix in SUFFIXES if name.endswith(suffix)]


def _read_file(
    config: DataConfig, access: StorageAccess, patience: Patience | None
) -> tuple[str, bytes | bytearray]:
    """data_name is a file, or a folder with a file SPLIT.EXT."""
    place = config.load_dataset_config
    location = Location.of_input(place.data_name)
    parent = open_store(location.parent, DATA, access, patience)
    info = parent.head(location.name)
    if info is not None:
        return location.name, _read(config, parent, info)
    folder = open_store(location, DATA, access, patience)
    there = [key for key in folder.list() if "/" not in key]
    wanted = [f"{place.split}{suffix}" for suffix in SUFFIXES]
    found = [key for key in there if key in wanted]
    if len(found) == 1:
        info = folder.head(found[0])
        if info is not None:
            return found[0], _read(config, folder, info)
    if len(found) > 1:
        raise QuantizationError(
            Category.DATA_NOT_FOUND,
            f"data config {config.name}: {folder.uri} has {' and '.join(found)}; only one can be read",
            "Name one of the files in data_name.",
        )
    if there:
        raise QuantizationError(
            Category.DATA_NOT_FOUND,
            f"data config {config.name}: {folder.uri} has no {place.split} file "
            f"({', '.join(PLAIN_SUFFIXES)}, or one of them with .gz); it has {', '.join(there[:5])}"
            f"{did_you_mean(place.split, _splits(there))}",
            "Set load_dataset_config.split to the name of a file without its extension.",
        )
    raise QuantizationError(
        Category.DATA_NOT_FOUND, f"data config {config.name}: there is nothing at {folder.uri}"
    )
