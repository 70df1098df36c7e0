//! A PCI device that says it is an H100, for the driver's eyes.
//!
//! QEMU shows it to a guest (`-device vfio-user-pci`) and asks over a Unix socket
//! for every access. It has the identity, the BARs and an interrupt, which never
//! comes; what is written to it is lost, but for the command register, and it reads
//! no memory. So it proves nothing, computes nothing, and the driver must give it up.
//!
//! Source: QEMU docs/interop/vfio-user.rst, Linux include/uapi/linux/vfio.h,
//! NVIDIA open-gpu-kernel-modules `src/common/inc/swref/published/nv_ref.h`.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, bail};
use attestation::reader::Reader;

/// What stands behind the identity.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gpu {
    /// Nobody: all bits are set, as on a bus where no device answers.
    Impostor,
    /// A chip that says which one it is, and does not come up.
    Dead,
}

impl Gpu {
    /// Listens at `socket`, and serves the first QEMU that comes until that ends.
    pub fn listen(self, socket: &Path) -> io::Result<JoinHandle<Result<()>>> {
        let listener = UnixListener::bind(socket)?;
        Ok(thread::spawn(move || serve(self, listener.accept()?.0)))
    }

    fn register(self, at: usize) -> u32 {
        match (self, at) {
            (Self::Impostor, _) => u32::MAX,
            (Self::Dead, NV_PMC_BOOT_0) => 0x1800_00a1,
            (Self::Dead, NV_PMC_BOOT_42) => 0x180a_1000,
            (Self::Dead, _) => 0,
        }
    }
}

fn serve(gpu: Gpu, mut qemu: impl Read + Write) -> Result<()> {
    let mut device = Device { gpu, command: 0 };
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
        let reply = device.reply(command, &body)?;
        if flags & NO_REPLY == 0 {
            let size = u32::try_from(HEADER.saturating_add(reply.len()))?;
            let head = [id.to_le_bytes(), command.to_le_bytes()];
            let message = [head.as_flattened(), &words([size, REPLY, 0]), &reply].concat();
            qemu.write_all(&message).context("cannot answer")?;
        }
    }
}

/// The device, while a guest uses it.
struct Device {
    gpu: Gpu,
    command: u32,
}

impl Device {
    /// What stands behind the header of the answer.
    fn reply(&mut self, command: u16, body: &[u8]) -> Result<Vec<u8>> {
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
                    (_, FRAME_BUFFER) => (256 << 20, REGION_READS_AND_WRITES),
                    (_, INSTANCE_MEMORY) => (32 << 20, REGION_READS_AND_WRITES),
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
                    let word = |at| match region {
                        CONFIGURATION => self.configuration(at),
                        _ => self.gpu.register(at),
                    };
                    let words = (offset & !3..offset.saturating_add(count)).step_by(4);
                    let bytes = words.flat_map(|at| word(at).to_le_bytes());
                    reply.extend(bytes.skip(offset & 3).take(count));
                } else if let (CONFIGURATION, COMMAND, &[low, high, ..]) =
                    (region, offset, fields.rest())
                {
                    self.command = u32::from_le_bytes([low, high, 0, 0]);
                }
                reply
            }
            other => bail!("command {other}, which this device does not know"),
        })
    }

    /// Identity, command, class (3D controller) and revision, two BARs of 64 bits, board,
    /// interrupt pin.
    const fn configuration(&self, at: usize) -> u32 {
        match at {
            0x00 => 0x2330_10de,
            COMMAND => self.command,
            0x08 => 0x0302_00a1,
            0x14 | 0x1c => 0b1100,
            0x2c => 0x16c1_10de,
            0x3c => 1 << 8,
            _ => 0,
        }
    }
}

fn words<const N: usize>(words: [u32; N]) -> Vec<u8> {
    words.map(u32::to_le_bytes).concat()
}

const COMMAND: usize = 0x04;
const NV_PMC_BOOT_0: usize = 0;
const NV_PMC_BOOT_42: usize = 0xa00;

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
/// BARs 0, 1 and 3, `VFIO_PCI_CONFIG_REGION_INDEX` and `VFIO_PCI_INTX_IRQ_INDEX`.
const REGISTERS: u32 = 0;
const FRAME_BUFFER: u32 = 1;
const INSTANCE_MEMORY: u32 = 3;
const CONFIGURATION: u32 = 7;
const INTX: u32 = 0;

#[cfg(test)]
mod tests {
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn ask(gpu: Gpu, command: u16, body: &[u8]) -> Result<Vec<u8>> {
        let (mut qemu, device) = UnixStream::pair()?;
        let served = thread::spawn(move || serve(gpu, device));
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
    fn it_keeps_its_command_register_and_nothing_else() {
        let mut device = Device {
            gpu: Gpu::Dead,
            command: 0,
        };
        for offset in [4, 8] {
            let body = words([offset, 0, CONFIGURATION, 2]);
            let data = [&body[..], &[6, 0]].concat();
            assert_eq!(device.reply(REGION_WRITE, &data).unwrap(), body);
        }
        assert_eq!(device.configuration(4), 6);
        assert_eq!(device.configuration(8), 0x0302_00a1);
    }

    fn read(gpu: Gpu, region: u32, offset: u32) -> Vec<u8> {
        let body = words([offset, 0, region, 4]);
        let answer = ask(gpu, REGION_READ, &body).unwrap();
        let (head, data) = answer.split_at(body.len());
        assert_eq!(head, body);
        data.to_vec()
    }

    #[test]
    fn it_is_an_h100_by_its_identity() {
        let config = |offset| read(Gpu::Impostor, CONFIGURATION, offset);
        assert_eq!(config(0), [0xde, 0x10, 0x30, 0x23]);
        assert_eq!(config(8), [0xa1, 0x00, 0x02, 0x03]);
        assert_eq!(config(9), [0x00, 0x02, 0x03, 0x00]);
    }

    #[test]
    fn nobody_answers_for_an_impostor_and_a_dead_one_says_which_it_is() {
        assert_eq!(read(Gpu::Impostor, REGISTERS, 0), [0xff; 4]);
        assert_eq!(read(Gpu::Dead, REGISTERS, 0), [0xa1, 0, 0, 0x18]);
        assert_eq!(read(Gpu::Dead, REGISTERS, 4), [0; 4]);
    }

    #[test]
    fn it_stops_at_what_it_does_not_know() {
        let error = ask(Gpu::Dead, 14, &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "command 14, which this device does not know"
        );
        assert!(ask(Gpu::Dead, REGION_READ, &[0; 15]).is_err());
    }
}
