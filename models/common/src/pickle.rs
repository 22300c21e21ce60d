//! PyTorch's zip checkpoints, read without executing anything.
//!
//! `torch.save` writes a zip archive: `<name>/data.pkl` describes tensors, `<name>/data/<key>`
//! holds their bytes. The pickle is decoded by candle's interpreter, which only builds a tree, and
//! every callable that a tensor does not need is refused.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use anyhow::{Context, Result, anyhow, bail, ensure};
use candle_core::{
    DType, Device, Tensor,
    pickle::{Object, Stack},
};
use zip::ZipArchive;

/// Callables and classes that `torch.save` of a state dict names.
fn is_known_global(module: &str, class: &str) -> bool {
    match module {
        "collections" => class == "OrderedDict",
        "torch._utils" => matches!(class, "_rebuild_tensor_v2" | "_rebuild_parameter"),
        "torch" => class.ends_with("Storage") || class == "Size",
        _ => false,
    }
}

/// Keys under which training scripts nest the state dict.
const NESTED: [&str; 4] = ["state_dict", "model", "model_state_dict", "net"];

/// Reads every tensor of a `.pth` file.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mut archive = ZipArchive::new(File::open(path)?)
        .map_err(|error| anyhow!("a damaged or cut-off checkpoint, copy it again ({error})"))?;
    let pickle_name = archive
        .file_names()
        .filter_map(|name| Some(name.ok()?.into_owned()))
        .find(|name| name == "data.pkl" || name.ends_with("/data.pkl"))
        .context("the zip archive holds no data.pkl: not a checkpoint of torch.save")?;
    let folder = pickle_name.trim_end_matches(".pkl").to_owned();

    let mut pickle = Vec::new();
    archive.by_name(&pickle_name)?.read_to_end(&mut pickle)?;
    let tree = decode(&pickle)?;

    let mut tensors = BTreeMap::new();
    for (name, value) in state_dict(tree)? {
        if let Some(stored) = StoredTensor::decode(value).with_context(|| format!("`{name}`"))? {
            let tensor = stored.load(&mut archive, &folder).with_context(|| format!("`{name}`"))?;
            tensors.insert(name, tensor);
        }
    }
    Ok(tensors)
}

/// Runs candle's interpreter one instruction at a time, so that a foreign name is refused where it
/// appears, whatever would have been done with it.
fn decode(mut pickle: &[u8]) -> Result<Object> {
    let mut stack = Stack::empty();
    let mut done = false;
    while !done {
        done = stack.read(&mut pickle).context(
            "its data.pkl cannot be decoded; save the plain state dict: torch.save(model.state_dict(), path)",
        )?;
        if let Some(Object::Class { module_name, class_name }) = stack.stack().last() {
            ensure!(
                is_known_global(module_name, class_name),
                "its pickle names `{module_name}.{class_name}`, which a checkpoint of tensors does not \
                 need; nothing was executed; save the plain state dict: torch.save(model.state_dict(), path)"
            );
        }
    }
    Ok(stack.finalize()?)
}

/// The name-to-tensor dictionary, possibly nested one level deep.
fn state_dict(tree: Object) -> Result<Vec<(String, Object)>> {
    let Object::Dict(entries) = tree else {
        bail!("its pickle is not a dictionary of tensors: save model.state_dict()");
    };
    let mut named = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        // `_metadata` and optimiser state have keys that are no tensor names.
        if let Object::Unicode(name) = key {
            named.push((name, value));
        }
    }
    let nested = named.iter().position(|(name, value)| {
        NESTED.contains(&name.as_str()) && matches!(value, Object::Dict(_))
    });
    match nested {
        Some(index) => state_dict(named.swap_remove(index).1),
        None => Ok(named),
    }
}

/// One tensor as the pickle describes it: a view into a storage.
struct StoredTensor {
    key: String,
    dtype: DType,
    offset: usize,
    size: Vec<usize>,
    stride: Vec<usize>,
}

impl StoredTensor {
    /// `None` for values that are no tensors.
    fn decode(value: Object) -> Result<Option<Self>> {
        let Object::Reduce { callable, args } = value else {
            return Ok(None);
        };
        let Object::Class { class_name, .. } = *callable else {
            return Ok(None);
        };
        let Object::Tuple(args) = *args else {
            bail!("a tensor without arguments in the pickle");
        };
        let mut args = args.into_iter();
        if class_name == "_rebuild_parameter" {
            return Self::decode(args.next().context("an empty parameter in the pickle")?);
        }
        if class_name != "_rebuild_tensor_v2" {
            return Ok(None);
        }
        let (Some(storage), Some(offset), Some(size), Some(stride)) =
            (args.next(), args.next(), args.next(), args.next())
        else {
            bail!("a tensor with fewer than four arguments in the pickle");
        };
        let Object::PersistentLoad(id) = storage else {
            bail!("a tensor without storage in the pickle");
        };
        let Object::Tuple(id) = *id else {
            bail!("a storage without a name in the pickle");
        };
        let [_, Object::Class { class_name: storage_class, .. }, Object::Unicode(key), ..] =
            id.as_slice()
        else {
            bail!("a storage of unknown form in the pickle");
        };
        let dtype = match storage_class.as_str() {
            "FloatStorage" => DType::F32,
            "DoubleStorage" => DType::F64,
            "HalfStorage" => DType::F16,
            "BFloat16Storage" => DType::BF16,
            "LongStorage" => DType::I64,
            "ByteStorage" | "BoolStorage" => DType::U8,
            other => bail!("values of type {other}: expected float, half, bfloat16 or long"),
        };
        Ok(Some(Self {
            key: key.clone(),
            dtype,
            offset: index(offset)?,
            size: indices(size)?,
            stride: indices(stride)?,
        }))
    }

    fn load(&self, archive: &mut ZipArchive<File>, folder: &str) -> Result<Tensor> {
        ensure!(self.size.len() == self.stride.len(), "as many strides as axes are expected");
        let entry = format!("{folder}/{}", self.key);
        let mut bytes = Vec::new();
        archive
            .by_name(&entry)
            .with_context(|| format!("the archive lacks its data `{entry}`"))?
            .read_to_end(&mut bytes)
            .with_context(|| format!("its data `{entry}` cannot be read: is the file cut off?"))?;
        let item = self.dtype.size_in_bytes();
        let contiguous = self.contiguous_bytes(&bytes, item).with_context(|| {
            format!("its data `{entry}` holds {} bytes, too few for {:?}", bytes.len(), self.size)
        })?;
        Ok(Tensor::from_raw_buffer(&contiguous, self.dtype, &self.size, &Device::Cpu)?)
    }

    /// Gathers the view's elements in row-major order; `None` when the storage is too short.
    fn contiguous_bytes(&self, storage: &[u8], item: usize) -> Option<Vec<u8>> {
        let count = self.size.iter().try_fold(1_usize, |n, &size| n.checked_mul(size))?;
        if count > storage.len() / item {
            return None;
        }
        let mut out = Vec::with_capacity(count.min(storage.len()).checked_mul(item)?);
        let mut position = vec![0_usize; self.size.len()];
        for _ in 0..count {
            let element =
                position.iter().zip(&self.stride).try_fold(self.offset, |at, (&i, &stride)| {
                    at.checked_add(i.checked_mul(stride)?)
                })?;
            let start = element.checked_mul(item)?;
            out.extend_from_slice(storage.get(start..start.checked_add(item)?)?);
            for axis in (0..position.len()).rev() {
                position[axis] += 1;
                if position[axis] < self.size[axis] {
                    break;
                }
                position[axis] = 0;
            }
        }
        Some(out)
    }
}

fn index(object: Object) -> Result<usize> {
    match object {
        Object::Int(value) => Ok(usize::try_from(value)?),
        Object::Long(value) => Ok(usize::try_from(value)?),
        other => bail!("expected a number in the pickle, got {other:?}"),
    }
}

fn indices(object: Object) -> Result<Vec<usize>> {
    match object {
        Object::Tuple(items) => items.into_iter().map(index).collect(),
        other => bail!("expected a tuple of numbers in the pickle, got {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strided_view_is_gathered_in_row_major_order() {
        let storage: Vec<u8> = (0..12).collect();
        let view = |offset, size: &[usize], stride: &[usize]| StoredTensor {
            key: "0".into(),
            dtype: DType::U8,
            offset,
            size: size.into(),
            stride: stride.into(),
        };
        let transposed = view(1, &[2, 3], &[1, 4]).contiguous_bytes(&storage, 1).unwrap();
        assert_eq!(transposed, [1, 5, 9, 2, 6, 10]);
        let scalar = view(7, &[], &[]).contiguous_bytes(&storage, 1).unwrap();
        assert_eq!(scalar, [7]);
        assert_eq!(view(11, &[2], &[1]).contiguous_bytes(&storage, 1), None);
    }
}
