//! Calls that safe Rust cannot make. All the `unsafe` of init is here.

#![allow(
    unsafe_code,
    reason = "ioctls, prctl and the moment between fork and exec have no safe form"
)]

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::SigSet;

/// What to ask of the device mapper.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DeviceMapper {
    /// `DM_DEV_CREATE`.
    Create,
    /// `DM_TABLE_LOAD`.
    Load,
    /// `DM_DEV_SUSPEND`, without the flag that suspends.
    Resume,
}

/// Sends one request; the kernel writes its answer over it.
pub(crate) fn device_mapper(
    control: &File,
    call: DeviceMapper,
    request: &mut [u8],
) -> io::Result<()> {
    let size = u32::try_from(request.len()).map_err(io::Error::other)?;
    let (Some(field), DM_HEADER..) = (request.get_mut(12..16), size) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    field.copy_from_slice(&size.to_ne_bytes());

    let (fd, data) = (control.as_raw_fd(), request.as_mut_ptr().cast());
    // SAFETY: `fd` is open. The kernel reads and writes as many bytes behind `data`
    // as the size field at offset 12 says and at least a header: that many are
    // `request`'s, which is borrowed mutably, and no pointer outlives the call.
    unsafe {
        match call {
            DeviceMapper::Create => dm_dev_create(fd, data),
            DeviceMapper::Load => dm_table_load(fd, data),
            DeviceMapper::Resume => dm_dev_suspend(fd, data),
        }
    }?;
    Ok(())
}

/// `TDX_CMD_GET_REPORT0` over zero report data: REPORTDATA 64, then TDREPORT 1024.
pub(crate) fn td_report(device: &File) -> io::Result<[u8; 1024]> {
    let mut request = [0; 64 + 1024];
    // SAFETY: the fd is open, and `request` has the size that the ioctl's number
    // encodes, which is all that the kernel reads and writes.
    unsafe { tdx_get_report0(device.as_raw_fd(), &raw mut request) }?;
    let (_, report) = request
        .split_last_chunk()
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(*report)
}

/// Sets `IFF_UP` on an interface.
pub(crate) fn link_up(socket: &UdpSocket, interface: &str) -> io::Result<()> {
    let flags = libc::c_short::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    let mut argument = [0; 16];
    put(&mut argument, &flags.to_ne_bytes());
    let request = ifreq(interface, argument);
    // SAFETY: the fd is open, and the kernel reads one `ifreq`, 40 bytes, from a
    // pointer to 40 bytes.
    unsafe { set_flags(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// Replaces an interface's address and netmask.
pub(crate) fn set_address(
    socket: &UdpSocket,
    interface: &str,
    address: Ipv4Addr,
    netmask: Ipv4Addr,
) -> io::Result<()> {
    let own = ifreq(interface, socket_address(address));
    let mask = ifreq(interface, socket_address(netmask));
    // SAFETY: as in `link_up`, twice.
    unsafe {
        set_own_address(socket.as_raw_fd(), &raw const own)?;
        set_netmask(socket.as_raw_fd(), &raw const mask)?;
    }
    Ok(())
}

/// Adds the default route.
pub(crate) fn set_gateway(socket: &UdpSocket, gateway: Ipv4Addr) -> io::Result<()> {
    let any = socket_address(Ipv4Addr::UNSPECIFIED);
    let flags = libc::RTF_UP | libc::RTF_GATEWAY;
    let mut request: Rtentry = [0; 120];
    let fields = [
        &[0; 8][..],
        &any,
        &socket_address(gateway),
        &any,
        &flags.to_ne_bytes(),
    ];
    put(&mut request, &fields.concat());
    // SAFETY: the fd is open, and the kernel reads one `rtentry`, 120 bytes, from a
    // pointer to 120 bytes. Its one pointer, `rt_dev`, is null, which is allowed.
    unsafe { add_route(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// Empties the capability bounding set: no program started later can gain any.
pub(crate) fn drop_bounding_set() -> io::Result<()> {
    for capability in 0_u64.. {
        // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory of ours.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if done == 0 {
            continue;
        }
        return match io::Error::last_os_error() {
            // One past the last capability of this kernel.
            end if end.raw_os_error() == Some(libc::EINVAL) && capability > 0 => Ok(()),
            error => Err(error),
        };
    }
    Ok(())
}

/// Lets the child hear the signals that init has blocked.
pub(crate) fn hear_signals(command: &mut Command) {
    let in_child = || Ok(SigSet::empty().thread_set_mask()?);
    // SAFETY: between fork and exec only pthread_sigmask runs, which is
    // async-signal-safe, and nothing allocates.
    unsafe { command.pre_exec(in_child) };
}

/// Puts `file` at fd 3 of the child.
///
/// Fd 3 of init has to be taken, so that it is neither `file` nor the pipe over
/// which the child reports that it cannot run the program.
pub(crate) fn hand_over_at_3(command: &mut Command, file: OwnedFd) {
    let in_child = move || {
        // SAFETY: dup2 takes two numbers; `file` is open in the child, and what was
        // at 3 belongs to nobody there.
        match unsafe { libc::dup2(file.as_raw_fd(), 3) } {
            3 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec only dup2 runs, which is async-signal-safe, and
    // nothing allocates.
    unsafe { command.pre_exec(in_child) };
}

/// `struct ifreq`: name, then flags or an address.
fn ifreq(interface: &str, argument: [u8; 16]) -> Ifreq {
    let mut request = [0; 40];
    let mut name = [0; 16];
    // One NUL stays.
    put(
        &mut name,
        interface
            .as_bytes()
            .get(..15)
            .unwrap_or(interface.as_bytes()),
    );
    put(&mut request, &[name, argument].concat());
    request
}

/// `struct sockaddr_in` without a port.
fn socket_address(address: Ipv4Addr) -> [u8; 16] {
    let [family, _] = AF_INET.to_ne_bytes();
    let [a, b, c, d] = address.octets();
    [family, 0, 0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn put(to: &mut [u8], from: &[u8]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}

type Ifreq = [u8; 40];
type Rtentry = [u8; 120];

/// Linux, `include/linux/socket.h`.
const AF_INET: u16 = 2;
const DM_HEADER: u32 = 312;

// Linux, `include/uapi/linux/dm-ioctl.h`.
nix::ioctl_readwrite!(dm_dev_create, 0xfd, 3, [u8; 312]);
nix::ioctl_readwrite!(dm_dev_suspend, 0xfd, 6, [u8; 312]);
nix::ioctl_readwrite!(dm_table_load, 0xfd, 9, [u8; 312]);
// Linux, `include/uapi/linux/tdx-guest.h`.
nix::ioctl_readwrite!(tdx_get_report0, b'T', 1, [u8; 1088]);
// Linux, `include/uapi/linux/sockios.h`.
nix::ioctl_write_ptr_bad!(add_route, libc::SIOCADDRT, Rtentry);
nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, Ifreq);
nix::ioctl_write_ptr_bad!(set_netmask, libc::SIOCSIFNETMASK, Ifreq);
nix::ioctl_write_ptr_bad!(set_own_address, libc::SIOCSIFADDR, Ifreq);
