# To be sourced: `. tests/env.sh`. Fetches what the suite runs besides Rust into target/python, pinned, and says where
# it is: PYTHONPATH for Python, ORT_DYLIB_PATH for ONNX Runtime's library.
_root=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)
_python=$_root/target/python
if ! cmp -s "$_root/tests/python/requirements.txt" "$_python/requirements.txt"; then
  rm -rf "$_python"
  python3 -m pip install --quiet --disable-pip-version-check --target "$_python" \
    -r "$_root/tests/python/requirements.txt" &&
    cp "$_root/tests/python/requirements.txt" "$_python/requirements.txt"
fi
export PYTHONPATH=$_python
ORT_DYLIB_PATH=$(find "$_python/onnxruntime/capi" -name 'libonnxruntime.so.*' -o -name 'libonnxruntime*.dylib' | head -n 1)
export ORT_DYLIB_PATH
unset _root _python
