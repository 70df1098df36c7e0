//! Compiles the kernels: by nvcc for the device, by a C++ compiler for its double.

use std::io;

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=kernels");
    #[cfg(feature = "cuda")]
    cuda::compile()?;
    #[cfg(feature = "double")]
    double::compile();
    Ok(())
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::path::Path;
    use std::process::Command;
    use std::{env, io};

    /// One file that holds code for the card and, for later ones, what the driver
    /// compiles. It is made with the variables that candle's kernels are made with.
    pub(super) fn compile() -> io::Result<()> {
        let [home, host, card] = [
            ("CUDA_HOME", "/usr"),
            ("NVCC_CCBIN", "g++"),
            ("CUDA_COMPUTE_CAP", "90"),
        ]
        .map(|(name, default)| {
            println!("cargo::rerun-if-env-changed={name}");
            env::var(name).unwrap_or_else(|_| default.into())
        });
        let out = env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
        let status = Command::new(Path::new(&home).join("bin/nvcc"))
            .args(["-ccbin", &host, "-std=c++17", "-fmad=false", "-O3"])
            .args(["-Werror", "all-warnings", "-fatbin"])
            .arg(format!(
                "-gencode=arch=compute_{card},code=[sm_{card},compute_{card}]"
            ))
            .arg("kernels/all.cu")
            .arg("-o")
            .arg(Path::new(&out).join("kernels.fatbin"))
            .status()?;
        match status.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!("nvcc: {status}"))),
        }
    }
}

#[cfg(feature = "double")]
mod double {
    /// As nvcc does it: no product and sum are fused unless the source says so.
    pub(super) fn compile() {
        println!("cargo::rerun-if-changed=double");
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            .opt_level(2)
            .flags(["-ffp-contract=off", "-fno-exceptions", "-fno-rtti"])
            .flag("-Wno-unknown-pragmas")
            .warnings_into_errors(true)
            .file("double/machine.cpp")
            .compile("gpu_double");
    }
}
