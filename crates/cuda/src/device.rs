//! A device with our kernels.

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
use ssamba_scan::cuda::{Image, Launch, Limits};

use crate::{MissingLibrary, compiler, store};

/// A device that holds the kernels of an image, in the device's primary context, the one that other
/// libraries of the process use too.
#[derive(Debug)]
pub struct Device {
    context: Arc<CudaContext>,
    kernels: Vec<CudaFunction>,
    limits: Limits,
    architecture: String,
}

/// By number and image.
static DEVICES: Mutex<BTreeMap<(u32, &str), Arc<Device>>> = Mutex::new(BTreeMap::new());

impl Device {
    /// The device of that number, with the kernels of an image.
    ///
    /// # Errors
    /// Names the library that is missing, or says what the driver or the compiler says.
    pub fn open(number: u32, image: &Image) -> Result<Arc<Self>> {
        let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (number, image.name);
        if let Some(device) = devices.get(&key) {
            return Ok(device.clone());
        }
        let device = Self::load(number, image)
            .with_context(|| format!("cannot use CUDA device {number}"))?;
        Ok(devices.entry(key).or_insert(Arc::new(device)).clone())
    }

    fn load(number: u32, image: &Image) -> Result<Self> {
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
            image,
            &architecture,
            |bytes| context.load_module(Ptx::from_binary(bytes.to_vec())).map_err(readable),
            || compiler::compile(image, &architecture),
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
        let kernels = image.kernels.iter().map(kernel).collect::<Result<_>>()?;
        Ok(Self { kernels, context, limits, architecture })
    }

    /// Its compute capability, such as `sm_90`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// What a launch can be made of.
    pub fn limits(&self) -> &Limits {
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
    pub unsafe fn launch<A>(
        &self,
        launch: Launch,
        mut arguments: A,
        stream: *mut c_void,
    ) -> Result<()> {
        self.bind()?;
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

    /// Makes its context the one of this thread.
    pub(crate) fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(readable)
    }

    /// Copies values to the device, and waits until they are there.
    ///
    /// # Safety
    /// `address` is that of as many values of this device, which nothing else uses meanwhile.
    #[expect(unsafe_code, reason = "the device is addressed")]
    pub unsafe fn write(&self, address: u64, values: &[f32]) -> Result<()> {
        self.bind()?;
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
    pub unsafe fn read(&self, address: u64, values: &mut [f32]) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's.
        unsafe { result::memcpy_dtoh_sync(values, address).map_err(readable) }
    }

    /// Bytes of the device's memory that are in use, by this process and others.
    pub fn memory_in_use(&self) -> Result<usize> {
        self.bind()?;
        let (free, total) = result::mem_get_info().map_err(readable)?;
        Ok(total - free)
    }

    /// What the driver calls it.
    pub fn name(&self) -> Result<String> {
        self.context.name().map_err(readable)
    }
}

/// The version of NVIDIA's driver: of the CUDA that it speaks, and on Linux of its kernel module.
pub fn driver() -> Result<String> {
    let mut speaks = 0;
    // SAFETY: the driver writes one number.
    #[expect(unsafe_code, reason = "a C interface")]
    unsafe { sys::cuDriverGetVersion(&mut speaks) }.result().map_err(readable)?;
    let module = fs::read_to_string("/sys/module/nvidia/version").unwrap_or_default();
    Ok(format!("{speaks} {}", module.trim()))
}

const DRIVER: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

/// What the driver says of an error.
pub(crate) fn readable(error: DriverError) -> anyhow::Error {
    match error.error_string() {
        Ok(reason) => anyhow::anyhow!("{}", reason.to_string_lossy()),
        Err(_) => anyhow::anyhow!("the driver fails with {:?}", error.0),
    }
}
