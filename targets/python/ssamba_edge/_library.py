"""The library of operators that lies in this package."""

from pathlib import Path

_NAMES = ("libssamba_ops.so", "libssamba_ops.dylib", "ssamba_ops.dll")


def ops_library() -> str:
    """Path of the library with our kernels, for ``SessionOptions.register_custom_ops_library``.

    Any file of ``ssamba-edge export`` runs without it too, several times slower.

    Raises:
        FileNotFoundError: The package was not installed from a wheel of ``build-wheel``.
    """
    folder = Path(__file__).parent
    for name in _NAMES:
        if (path := folder / name).is_file():
            return str(path)
    raise FileNotFoundError(
        f"no library of operators in `{folder}`: install the wheel that targets/python/build-wheel makes"
    )
