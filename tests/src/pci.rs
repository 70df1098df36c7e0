//! A PCI device that says it is a GPU: an H100 by its identity, with nobody behind its registers.
//!
//! QEMU shows it to a guest (`-device vfio-user-pci`) and asks over a Unix socket
//! for every access. Reads of its 16 MiB of registers find all bits set, as on a
//! bus where no device answers; it has an interrupt that never comes, and reads no memory.
//!
//! Source: QEMU docs/interop/vfio-user.rst, Linux include/uapi/linux/vfio.h.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, bail};
use attestation::reader::Reader;

/// Listens at `socket`, and serves the first QEMU that comes until that ends.
pub fn impostor(socket: &Path) -> io::Result<JoinHandle<Result<()>>> {
    let listener = UnixListener::bind(socket)?;
    Ok(thread::spawn(move || serve(listener.accept()?.0)))
}

fn serve(mut qemu: impl Read + Write) -> Result<()> {
    let mut header = [0; HEADER];
    loop {
        match qemu.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            result => result.context("cannot read a header")?,
        }
        let mut fields = Reader::new(&header);
        let id = fields.u16_le("message ID")?;
        let command = fields.u16_le("command")?;
        let size = usize::try_from(fields.u32_le("message size")?)?;
        let flags = fields.u32_le("flags")?;
        let mut body = vec![0; size.saturating_sub(HEADER)];
        qemu.read_exact(&mut body)
            .context("cannot read a message")?;
        let reply = reply(command, &body)?;
        if flags & NO_REPLY == 0 {
            let size = u32::try_from(HEADER.saturating_add(reply.len()))?;
            let head = [id.to_le_bytes(), command.to_le_bytes()];
            let message = [head.as_flattened(), &words([size, REPLY, 0]), &reply].concat();
            qemu.write_all(&message).context("cannot answer")?;
        }
    }
}

/// What stands behind the header of the answer.
fn reply(command: u16, body: &[u8]) -> Result<Vec<u8>> {
    let mut fields = Reader::new(body);
    Ok(match command {
        VERSION => b"\0\0\0\0{}\0".to_vec(),
        DMA_MAP | SET_IRQS | RESET => Vec::new(),
        DMA_UNMAP => body.to_vec(),
        GET_INFO => words([16, DEVICE_IS_PCI | DEVICE_RESETS, REGIONS, IRQS]),
        GET_REGION_INFO | GET_IRQ_INFO => {
            fields.u64_le("argsz and flags")?;
            let index = fields.u32_le("index")?;
            let (size, flags) = match (command, index) {
                (GET_IRQ_INFO, INTX) => return Ok(words([16, IRQ_BY_EVENTFD, index, 1])),
                (GET_IRQ_INFO, _) => return Ok(words([16, 0, index, 0])),
                (_, REGISTERS) => (16 << 20, REGION_READS_AND_WRITES),
                (_, CONFIGURATION) => (256, REGION_READS_AND_WRITES),
                _ => (0, 0),
            };
            words([32, flags, index, 0, size, 0, 0, 0])
        }
        REGION_READ | REGION_WRITE => {
            let offset = usize::try_from(fields.u64_le("offset")?)?;
            let region = fields.u32_le("region")?;
            let count = usize::try_from(fields.u32_le("count")?)?;
            let mut reply = fields.consumed().to_vec();
            if command == REGION_READ {
                let byte = |at| match region {
                    CONFIGURATION => configuration(at),
                    _ => 0xff,
                };
                reply.extend((offset..offset.saturating_add(count)).map(byte));
            }
            reply
        }
        other => bail!("command {other}, which this device does not know"),
    })
}

fn words<const N: usize>(words: [u32; N]) -> Vec<u8> {
    words.map(u32::to_le_bytes).concat()
}

/// Vendor, device, revision, class (3D controller) and interrupt pin.
const fn configuration(at: usize) -> u8 {
    match at {
        0x00 => 0xde,
        0x01 => 0x10,
        0x02 => 0x30,
        0x03 => 0x23,
        0x08 => 0xa1,
        0x0a => 0x02,
        0x0b => 0x03,
        0x3d => 1,
        _ => 0,
    }
}

const HEADER: usize = 16;
const REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;

const VERSION: u16 = 1;
const DMA_MAP: u16 = 2;
const DMA_UNMAP: u16 = 3;
const GET_INFO: u16 = 4;
const GET_REGION_INFO: u16 = 5;
const GET_IRQ_INFO: u16 = 7;
const SET_IRQS: u16 = 8;
const REGION_READ: u16 = 9;
const REGION_WRITE: u16 = 10;
const RESET: u16 = 13;

const DEVICE_RESETS: u32 = 1 << 0;
const DEVICE_IS_PCI: u32 = 1 << 1;
const REGION_READS_AND_WRITES: u32 = 0b11;
/// With it, one that can be masked, and masks itself.
const IRQ_BY_EVENTFD: u32 = 0b111;
/// `VFIO_PCI_NUM_REGIONS` and `VFIO_PCI_NUM_IRQS`.
const REGIONS: u32 = 9;
const IRQS: u32 = 5;
/// `VFIO_PCI_BAR0_REGION_INDEX`, `VFIO_PCI_CONFIG_REGION_INDEX` and `VFIO_PCI_INTX_IRQ_INDEX`.
const REGISTERS: u32 = 0;
const CONFIGURATION: u32 = 7;
const INTX: u32 = 0;

#[cfg(test)]
mod tests {
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn ask(command: u16, body: &[u8]) -> Result<Vec<u8>> {
        let (mut qemu, device) = UnixStream::pair()?;
        let served = thread::spawn(move || serve(device));
        let head = [[7, 0], command.to_le_bytes()];
        let size = u32::try_from(HEADER.saturating_add(body.len()))?;
        let message = [head.as_flattened(), &words([size, 0, 0]), body].concat();
        qemu.write_all(&message)?;
        qemu.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        qemu.read_to_end(&mut answer)?;
        served.join().expect("the device panicked")?;
        let size = u32::try_from(answer.len())?;
        let header = [head.as_flattened(), &words([size, REPLY, 0])].concat();
        assert_eq!(answer[..HEADER], header);
        Ok(answer.split_off(HEADER))
    }

    #[test]
    fn it_is_an_h100_by_its_identity_and_no_register_answers() {
        for (region, offset, expected) in [
            (CONFIGURATION, 0, [0xde, 0x10, 0x30, 0x23]),
            (CONFIGURATION, 8, [0xa1, 0x00, 0x02, 0x03]),
            (CONFIGURATION, 12, [0; 4]),
            (REGISTERS, 0, [0xff; 4]),
        ] {
            let body = words([offset, 0, region, 4]);
            let answer = ask(REGION_READ, &body).unwrap();
            assert_eq!(answer, [body, expected.to_vec()].concat());
        }
    }

    #[test]
    fn it_stops_at_what_it_does_not_know() {
        let error = ask(14, &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "command 14, which this device does not know"
        );
        assert!(ask(REGION_READ, &[0; 15]).is_err());
    }
}
