# To be sourced from the top of the repository: `. tests/env.sh`. Fetches what the suite runs besides Rust into
# target/python, pinned, and says where it is: PYTHONPATH for Python, ORT_DYLIB_PATH for ONNX Runtime's library.
[ -f tests/env.sh ] || echo "tests/env.sh: source me from the top of the repository" >&2
_python=$PWD/target/python
if ! cmp -s tests/python/requirements.txt "$_python/requirements.txt"; then
  rm -rf "$_python"
  python3 -m pip install --quiet --disable-pip-version-check --target "$_python" -r tests/python/requirements.txt &&
    cp tests/python/requirements.txt "$_python/requirements.txt"
fi
export PYTHONPATH="$_python${PYTHONPATH:+:$PYTHONPATH}"
ORT_DYLIB_PATH=$(find "$_python/onnxruntime/capi" -name 'libonnxruntime.so.*' -o -name 'libonnxruntime*.dylib' | head -n 1)
export ORT_DYLIB_PATH
unset _python
