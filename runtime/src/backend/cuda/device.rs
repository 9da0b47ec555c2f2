//! Devices: what there is, and one to prepare sessions for.

use std::fmt;
use std::sync::Arc;

use super::driver::{Driver, Properties};
use super::error::{Error, LEAST_ARCHITECTURE};

/// A device. Sessions of several threads may share it; clones are the same device.
#[derive(Clone)]
pub struct Device {
    driver: Arc<dyn Driver>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.driver.properties().fmt(f)
    }
}

impl Device {
    /// The CUDA device of this number, as the driver counts them.
    ///
    /// # Errors
    /// When the libraries or the device aren't there, or it is too old.
    #[cfg(feature = "cuda")]
    pub fn open(index: usize) -> Result<Device, Error> {
        Device::over(Arc::new(super::nvidia::Nvidia::open(index)?))
    }

    /// The kernels compiled for the host: bit for bit what they compute, and slow. For tests; needs a C++ compiler
    /// (`CXX`, or `c++`).
    ///
    /// # Errors
    /// [`Error::Compile`] when there is no compiler, or it fails.
    #[cfg(any(test, feature = "cuda-emulation"))]
    pub fn emulated() -> Result<Device, Error> {
        Device::over(Arc::new(super::emulation::Emulation::open()?))
    }

    /// What tests run on: the CUDA device whose number is in `WHIT_CUDA_DEVICE`, in builds with the feature `cuda`, else the kernels compiled
    /// for the host.
    ///
    /// # Errors
    /// As [`Device::emulated`], or when the device can't be used.
    #[cfg(any(test, feature = "cuda-emulation"))]
    pub fn for_tests() -> Result<Device, Error> {
        #[cfg(feature = "cuda")]
        if let Some(index) = std::env::var("WHIT_CUDA_DEVICE").ok().and_then(|n| n.parse().ok()) {
            return Device::open(index);
        }
        Device::emulated()
    }

    /// A device behind a driver, if it is new enough.
    pub(crate) fn over(driver: Arc<dyn Driver>) -> Result<Device, Error> {
        let Properties { name, architecture, .. } = driver.properties();
        if *architecture < LEAST_ARCHITECTURE {
            return Err(Error::Architecture {
                device: name.clone(),
                has: *architecture,
                needs: LEAST_ARCHITECTURE,
            });
        }
        Ok(Device { driver })
    }

    /// What it is.
    pub fn properties(&self) -> &Properties {
        self.driver.properties()
    }

    pub(crate) fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }
}

/// The CUDA devices of this machine, as the driver counts them.
///
/// # Errors
/// When the driver's library isn't there, or fails.
#[cfg(feature = "cuda")]
pub fn devices() -> Result<Vec<Properties>, Error> {
    super::nvidia::devices()
}
