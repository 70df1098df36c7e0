//! A card, through the driver and cuBLAS.
//!
//! One context, one stream: what is asked for is done in that order. A launch returns
//! before the kernel has run; a download waits for all that was asked for before it, and
//! an error of a kernel shows there.

use std::collections::HashMap;
use std::ffi::{CString, c_void};

use cudarc::cublas::{result as blas, sys as blas_sys};
use cudarc::driver::{result as driver, sys};

use crate::device::{Arg, Buffer, Crossings, Device, Error, Halves, Kind, Launch, Work};

/// The first card of the machine.
#[derive(Debug)]
pub struct Cuda {
    card: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    module: sys::CUmodule,
    library: blas_sys::cublasHandle_t,
    functions: HashMap<&'static str, sys::CUfunction>,
    memory: Vec<Buffer>,
    /// What is repeated, once it has been done without being kept, which loads all that
    /// it needs.
    graphs: HashMap<u64, Option<sys::CUgraphExec>>,
    crossings: Crossings,
}

// SAFETY: the driver's handles are of the process; each call makes the context that of
// its thread, and `&mut` lets one thread at a time call.
unsafe impl Send for Cuda {}

/// Machine code and PTX of `kernels/`.
static KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// Most graphs that are kept: requests can ask for steps of many kinds.
const GRAPHS: usize = 256;

/// What cuBLAS works in: as much as NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

impl Cuda {
    /// Opens it, with the kernels of this crate.
    pub fn open() -> Result<Self, Error> {
        driver::init().map_err(failed("start the driver"))?;
        let card = driver::device::get(0).map_err(failed("find a card"))?;
        // SAFETY: the card exists; the context is released when this is dropped.
        let context = unsafe { driver::primary_ctx::retain(card) };
        let context = context.map_err(failed("make a context"))?;
        // SAFETY: the context was just made.
        unsafe { driver::ctx::set_current(context) }.map_err(failed("use the context"))?;
        // SAFETY: the image is one that nvcc has made, and static.
        let module = unsafe { driver::module::load_data(KERNELS.as_ptr().cast()) };
        let module = module.map_err(failed("load the kernels"))?;
        let stream = driver::stream::create(driver::stream::StreamKind::NonBlocking);
        let stream = stream.map_err(failed("make a stream"))?;
        let library = blas::create_handle().map_err(failed("start cuBLAS"))?;
        let mut cuda = Self {
            card,
            context,
            stream,
            module,
            library,
            functions: HashMap::new(),
            memory: Vec::new(),
            graphs: HashMap::new(),
            crossings: Crossings::default(),
        };
        // SAFETY: cuBLAS has the same driver's streams.
        unsafe { blas::set_stream(library, stream.cast()) }
            .map_err(failed("give cuBLAS the stream"))?;
        let room = cuda.allocate(WORKSPACE)?;
        // SAFETY: the room is there as long as the handle.
        unsafe { blas_sys::cublasSetWorkspace_v2(library, pointer(room), WORKSPACE) }
            .result()
            .map_err(failed("give cuBLAS its room"))?;
        Ok(cuda)
    }

    fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context is there until this is dropped.
        unsafe { driver::ctx::set_current(self.context) }.map_err(failed("use the context"))
    }

    fn wait(&self) -> Result<(), Error> {
        // SAFETY: the stream is there until this is dropped.
        unsafe { driver::stream::synchronize(self.stream) }.map_err(failed("wait for the card"))
    }

    fn function(&mut self, name: &'static str) -> Result<sys::CUfunction, Error> {
        if let Some(function) = self.functions.get(name) {
            return Ok(*function);
        }
        let text = CString::new(name).map_err(failed("name a kernel"))?;
        // SAFETY: the module is there until this is dropped.
        let function = unsafe { driver::module::get_function(self.module, text) };
        let function = function.map_err(failed("find a kernel"))?;
        self.functions.insert(name, function);
        Ok(function)
    }

    fn keep(&mut self, work: Work<'_>) -> Result<sys::CUgraphExec, Error> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is this one's, and is in no other capture.
        unsafe { driver::stream::begin_capture(self.stream, mode) }
            .map_err(failed("begin a graph"))?;
        let done = work(self);
        // SAFETY: the capture was begun above; it has to end whatever came of the work.
        let graph = unsafe { driver::stream::end_capture(self.stream) };
        let graph = graph.map_err(failed("end a graph"))?;
        let exec = done.and_then(|()| {
            // SAFETY: the graph was just made.
            let exec =
                unsafe { driver::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
            exec.map_err(failed("make a graph"))
        });
        // SAFETY: it was just made, and what is instantiated does not need it.
        let destroyed = unsafe { driver::graph::destroy(graph) };
        destroyed.map_err(failed("let go of a graph")).and(exec)
    }
}

impl Device for Cuda {
    fn allocate(&mut self, bytes: usize) -> Result<Buffer, Error> {
        if bytes == 0 {
            return Ok(Buffer::EMPTY);
        }
        self.enter()?;
        // SAFETY: nobody reads it before somebody writes it: all a kernel reads was
        // uploaded, zeroed or written by a kernel.
        let at = unsafe { driver::malloc_sync(bytes) }.map_err(failed("allocate memory"))?;
        let buffer = Buffer {
            at,
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
        };
        self.memory.push(buffer);
        Ok(buffer)
    }

    fn upload(&mut self, to: Buffer, bytes: &[u8]) -> Result<(), Error> {
        let to = to.part(0, bytes.len())?;
        self.enter()?;
        self.crossings.count_up();
        // SAFETY: the buffer is as large; the driver has read memory that is not pinned
        // when this returns.
        unsafe { driver::memcpy_htod_async(to.at, bytes, self.stream) }
            .map_err(failed("copy to the card"))
    }

    fn download(&mut self, from: Buffer, bytes: &mut [u8]) -> Result<(), Error> {
        let from = from.part(0, bytes.len())?;
        self.enter()?;
        self.crossings.count_down();
        // SAFETY: the buffer is as large, and the copy is waited for.
        unsafe { driver::memcpy_dtoh_async(bytes, from.at, self.stream) }
            .map_err(failed("copy from the card"))?;
        self.wait()
    }

    fn zero(&mut self, what: Buffer) -> Result<(), Error> {
        self.enter()?;
        // SAFETY: the buffer is of this device.
        unsafe { driver::memset_d8_async(what.at, 0, what.bytes(), self.stream) }
            .map_err(failed("wipe memory"))
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), Error> {
        let Some([x, y, z]) = launch.blocks()? else {
            return Ok(());
        };
        self.enter()?;
        let function = self.function(launch.kernel)?;
        let mut arguments = launch.arguments.to_vec();
        let mut places: Vec<*mut c_void> = arguments
            .iter_mut()
            .map(|argument| match argument {
                Arg::Buffer(buffer) => (&raw mut *buffer).cast(),
                Arg::F32(number) => (&raw mut *number).cast(),
                Arg::U32(number) => (&raw mut *number).cast(),
            })
            .collect();
        let block = (Launch::THREADS, 1, 1);
        // SAFETY: the driver copies the arguments before it returns. That they are the
        // kernel's, and that it stays inside its buffers, is what the double checks on
        // every launch of the tests; a kernel reaches the card's memory alone.
        unsafe { driver::launch_kernel(function, (x, y, z), block, 0, self.stream, &mut places) }
            .map_err(|source| launch.refused(source.to_string()))
    }

    fn multiply(&mut self, halves: &Halves) -> Result<(), Error> {
        halves.check()?;
        let side = |size: usize| {
            i32::try_from(size).map_err(|_| Error::Size {
                what: "a side of a product",
                found: size,
                expected: "at most 2^31 - 1",
            })
        };
        let kind = match halves.kind {
            Kind::Bf16 => blas_sys::cudaDataType_t::CUDA_R_16BF,
            Kind::F16 => blas_sys::cudaDataType_t::CUDA_R_16F,
        };
        let (alpha, beta) = (1.0_f32, if halves.add { 1.0_f32 } else { 0.0 });
        let inputs = side(halves.inputs)?;
        self.enter()?;
        // Columns of the library are rows here: y^T = (W^T)^T x^T.
        // SAFETY: the sizes were checked against the buffers; the factors are read
        // before this returns.
        let done = unsafe {
            blas::gemm_ex(
                self.library,
                blas_sys::cublasOperation_t::CUBLAS_OP_T,
                blas_sys::cublasOperation_t::CUBLAS_OP_N,
                side(halves.outputs)?,
                side(halves.rows)?,
                inputs,
                (&raw const alpha).cast(),
                pointer(halves.weights),
                kind,
                inputs,
                pointer(halves.x),
                kind,
                inputs,
                (&raw const beta).cast(),
                pointer(halves.y),
                blas_sys::cudaDataType_t::CUDA_R_32F,
                side(halves.stride)?,
                blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        done.map_err(failed("multiply"))
    }

    fn repeat(&mut self, key: u64, work: Work<'_>) -> Result<(), Error> {
        self.enter()?;
        let exec = match self.graphs.get(&key) {
            None if self.graphs.len() >= GRAPHS => return work(self),
            None => {
                work(self)?;
                self.graphs.insert(key, None);
                return Ok(());
            }
            Some(Some(exec)) => *exec,
            Some(None) => {
                let exec = self.keep(work)?;
                self.graphs.insert(key, Some(exec));
                exec
            }
        };
        // SAFETY: the graph is there until this is dropped, and its buffers, too.
        unsafe { driver::graph::launch(exec, self.stream) }.map_err(failed("launch a graph"))
    }

    fn crossings(&self) -> Crossings {
        self.crossings
    }
}

impl Drop for Cuda {
    /// Wipes and frees everything.
    fn drop(&mut self) {
        // What fails here failed before: the card is gone, and its memory with it.
        self.close().unwrap_or_default();
    }
}

impl Cuda {
    fn close(&mut self) -> Result<(), Error> {
        self.enter()?;
        for buffer in self.memory.clone() {
            self.zero(buffer)?;
        }
        self.wait()?;
        // SAFETY: it was made here, and nothing uses it after this.
        let library = unsafe { blas::destroy_handle(self.library) };
        // SAFETY: likewise; nothing runs any more.
        let closed = unsafe {
            let graphs = self.graphs.values().flatten();
            graphs
                .map(|exec| driver::graph::exec_destroy(*exec))
                .chain(
                    self.memory
                        .iter()
                        .map(|buffer| driver::free_sync(buffer.at)),
                )
                .chain([
                    driver::stream::destroy(self.stream),
                    driver::module::unload(self.module),
                    driver::primary_ctx::release(self.card),
                ])
                .fold(Ok(()), Result::and)
        };
        closed.map_err(failed("close the card"))?;
        library.map_err(failed("close cuBLAS"))
    }
}

fn pointer(buffer: Buffer) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(usize::try_from(buffer.at).unwrap_or(0))
}

fn failed<E: std::error::Error + Send + Sync + 'static>(
    doing: &'static str,
) -> impl FnOnce(E) -> Error {
    move |source| Error::Driver {
        doing,
        source: Box::new(source),
    }
}
