"""Datasets: labelled samples, their readers, and the split between generator, judge and statistics."""

from __future__ import annotations

from unflow.data.cache import read_cached
from unflow.data.cifar10 import CIFAR10_CLASSES, cifar10
from unflow.data.cifar_binary import cifar100
from unflow.data.dataset import LabelledData
from unflow.data.digits import digits
from unflow.data.features import compute_features
from unflow.data.from_dataset import from_dataset
from unflow.data.from_hf import from_hf
from unflow.data.idx import mnist, read_idx
from unflow.data.idx_pairs import idx_pairs
from unflow.data.image_files import image_files
from unflow.data.image_folder import image_folder
from unflow.data.names import DATASETS, IN_FOLDERS, SOURCES, Source, list_forms, load_data
from unflow.data.npz import read_npz, write_npz
from unflow.data.split import PARTS, Split, read_split, split_data, write_split
from unflow.data.toy import PLANAR_SETS, Checkerboard, Circles, Gaussians, GeometryJudge, Moons, PlanarSet
from unflow.ground.faces import renamed

__all__ = [
    "CIFAR10_CLASSES",
    "DATASETS",
    "IN_FOLDERS",
    "PARTS",
    "PLANAR_SETS",
    "SOURCES",
    "Checkerboard",
    "Circles",
    "Gaussians",
    "GeometryJudge",
    "LabelledData",
    "Moons",
    "PlanarSet",
    "Source",
    "Split",
    "cifar10",
    "cifar100",
    "compute_features",
    "digits",
    "from_dataset",
    "from_hf",
    "idx_pairs",
    "image_files",
    "image_folder",
    "list_forms",
    "load_data",
    "mnist",
    "read_cached",
    "read_idx",
    "read_npz",
    "read_split",
    "split_data",
    "write_npz",
    "write_split",
]

__getattr__ = renamed(
    __name__, {"cached": "read_cached", "features_of": "compute_features", "forms": "list_forms"}
)
