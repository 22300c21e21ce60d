//! NVIDIA devices: our kernels there, compiled for the device and loaded once a process.
//!
//! CUDA's libraries are loaded at run time, when the first device is opened: building this crate
//! needs none, and neither does running it on a machine without a GPU.

mod arena;
mod bound;
mod compiler;
mod operands;
pub(crate) mod store;

use std::{
    collections::BTreeMap,
    ffi::c_void,
    fs, ptr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use cudarc::{
    driver::{
        CudaContext, CudaFunction, DriverError, result,
        sys::{
            self, CUdevice_attribute as DeviceAttribute, CUfunction_attribute as FunctionAttribute,
        },
    },
    nvrtc::Ptx,
};
use ort::{
    operator::ComputeContext,
    value::{DynTensorValueType, Shape, TensorElementType},
};
use ssamba_scan::cuda::{Element, KERNELS, Launch, Limits};

pub use arena::ArenaUse;
pub(crate) use arena::OfferedArena;
pub(crate) use bound::{Bound, allocator};
pub(crate) use operands::Operands;

use crate::{MissingLibrary, operator::Backend};

/// A device that holds our kernels, in the context that ONNX Runtime uses, the device's primary one.
#[derive(Debug)]
pub(crate) struct Device {
    context: Arc<CudaContext>,
    kernels: Vec<CudaFunction>,
    limits: Limits,
    architecture: String,
}

/// The provider, for sequences of one type.
#[derive(Clone)]
pub(crate) struct Gpu {
    pub(crate) device: Arc<Device>,
    pub(crate) element: Element,
}

impl Backend for Gpu {
    const PROVIDER: &'static str = "CUDAExecutionProvider";
    const IN_PLACE: bool = true;

    fn sequences(&self) -> TensorElementType {
        match self.element {
            Element::F32 => TensorElementType::Float32,
            Element::F16 => TensorElementType::Float16,
        }
    }
}

/// By their numbers.
static DEVICES: Mutex<BTreeMap<u32, Arc<Device>>> = Mutex::new(BTreeMap::new());

impl Device {
    /// The device of that number, with our kernels.
    ///
    /// # Errors
    /// Names the library that is missing, or says what the driver or the compiler says.
    pub(crate) fn open(number: u32) -> Result<Arc<Self>> {
        let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = devices.get(&number) {
            return Ok(device.clone());
        }
        let device =
            Self::load(number).with_context(|| format!("cannot use CUDA device {number}"))?;
        Ok(devices.entry(number).or_insert(Arc::new(device)).clone())
    }

    fn load(number: u32) -> Result<Self> {
        // SAFETY: opening the library runs its initialisers, which every program that uses the
        // driver trusts.
        #[expect(unsafe_code, reason = "it is opened to see whether it is there")]
        if !unsafe { sys::is_culib_present() } {
            return Err(MissingLibrary::new(DRIVER, "CUDA").into());
        }
        let context = CudaContext::new(number as usize).map_err(readable)?;
        let (major, minor) = context.compute_capability().map_err(readable)?;
        let architecture = format!("sm_{major}{minor}");
        let module = store::module(
            store::folder().as_deref(),
            &architecture,
            |image| context.load_module(Ptx::from_binary(image.to_vec())).map_err(readable),
            || compiler::compile(&architecture),
        )?;
        let attribute = |attribute| -> Result<usize> {
            Ok(usize::try_from(context.attribute(attribute).map_err(readable)?)?)
        };
        let limits = Limits {
            multiprocessors: attribute(DeviceAttribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes: attribute(
                DeviceAttribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
        };
        let most = i32::try_from(limits.shared_bytes)?;
        let kernel = |name: &&str| -> Result<CudaFunction> {
            let kernel = module.load_function(name).map_err(readable)?;
            let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            kernel.set_attribute(attribute, most).map_err(readable)?;
            Ok(kernel)
        };
        let kernels = KERNELS.iter().map(kernel).collect::<Result<_>>()?;
        Ok(Self { kernels, context, limits, architecture })
    }

    /// Its compute capability, such as `sm_90`.
    pub(crate) fn architecture(&self) -> &str {
        &self.architecture
    }

    /// What a launch can be made of.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Launches a kernel on a stream, and returns before it has run.
    ///
    /// # Safety
    /// The kernel takes one `A` by value. Until it has run, `stream` is a stream of this device, or
    /// null for its default one, and the addresses in `arguments` are those of values of this device,
    /// as many as the call says that the launch was planned for, that nothing but what is in the
    /// stream writes, nor, where they are written, reads.
    #[expect(unsafe_code, reason = "kernels follow addresses")]
    pub(crate) unsafe fn launch<A>(
        &self,
        launch: Launch,
        mut arguments: A,
        stream: *mut c_void,
    ) -> Result<()> {
        self.context.bind_to_thread().map_err(readable)?;
        // SAFETY: the kernels are of a module that is loaded as long as they are, and the driver
        // copies the arguments before it returns. The rest is the caller's.
        unsafe {
            result::launch_kernel(
                self.kernels[launch.kernel].cu_function(),
                (launch.blocks, 1, 1),
                (launch.threads, 1, 1),
                launch.shared_bytes,
                stream.cast(),
                &mut [(&raw mut arguments).cast()],
            )
        }
        .map_err(readable)
    }

    /// Copies values to the device, and waits until they are there.
    ///
    /// # Safety
    /// `address` is that of as many values of this device, which nothing else uses meanwhile.
    #[expect(unsafe_code, reason = "the device is addressed")]
    pub(crate) unsafe fn write(&self, address: u64, values: &[f32]) -> Result<()> {
        self.context.bind_to_thread().map_err(readable)?;
        // SAFETY: the caller's; the null stream is that of the copy.
        unsafe {
            result::memcpy_htod_sync(address, values).map_err(readable)?;
            result::stream::synchronize(ptr::null_mut()).map_err(readable)
        }
    }

    /// Copies values from the device.
    ///
    /// # Safety
    /// As for [`write`](Self::write).
    #[expect(unsafe_code, reason = "the device is addressed")]
    pub(crate) unsafe fn read(&self, address: u64, values: &mut [f32]) -> Result<()> {
        self.context.bind_to_thread().map_err(readable)?;
        // SAFETY: the caller's.
        unsafe { result::memcpy_dtoh_sync(values, address).map_err(readable) }
    }

    /// Bytes of the device's memory that are in use, by this process and others.
    pub(crate) fn memory_in_use(&self) -> Result<usize> {
        self.context.bind_to_thread().map_err(readable)?;
        let (free, total) = result::mem_get_info().map_err(readable)?;
        Ok(total - free)
    }

    /// What the driver calls it.
    pub(crate) fn name(&self) -> Result<String> {
        self.context.name().map_err(readable)
    }
}

/// The version of NVIDIA's driver: of the CUDA that it speaks, and on Linux of its kernel module.
pub(crate) fn driver() -> Result<String> {
    let mut speaks = 0;
    // SAFETY: the driver writes one number.
    #[expect(unsafe_code, reason = "a C interface")]
    unsafe { sys::cuDriverGetVersion(&mut speaks) }.result().map_err(readable)?;
    let module = fs::read_to_string("/sys/module/nvidia/version").unwrap_or_default();
    Ok(format!("{speaks} {}", module.trim()))
}

/// The stream that the nodes of a session run on.
pub(crate) fn stream(context: &ComputeContext) -> ort::Result<*mut c_void> {
    Ok(context.stream()?.map_or(ptr::null_mut(), |stream| stream.as_ptr()))
}

/// The address of a node's one output, of that shape.
pub(crate) fn output(context: &ComputeContext, shape: [usize; 3]) -> ort::Result<u64> {
    let shape = Shape::new(shape.map(|size| size as i64));
    let output = context.output(0, shape)?;
    let output = output.ok_or_else(|| ort::Error::new("the output has no value"))?;
    Ok(output.downcast::<DynTensorValueType>()?.data_ptr() as u64)
}

const DRIVER: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

/// What the driver says of an error.
fn readable(error: DriverError) -> anyhow::Error {
    match error.error_string() {
        Ok(reason) => anyhow::anyhow!("{}", reason.to_string_lossy()),
        Err(_) => anyhow::anyhow!("the driver fails with {:?}", error.0),
    }
}
