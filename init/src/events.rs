//! What reaches PID 1 while it waits: signals, the power button, the agent's pipe.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, PipeReader, Read};
use std::iter;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::reboot::set_cad_enabled;
use nix::sys::signal::{self, SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::system::Event;

/// Where events come from, and those not looked at yet.
pub(crate) struct Events {
    signals: SignalFd,
    buttons: Vec<File>,
    notify: Option<PipeReader>,
    pending: VecDeque<Event>,
}

impl Events {
    /// Takes the signals that are meant for PID 1.
    pub(crate) fn new() -> io::Result<Self> {
        let mut mask = SigSet::empty();
        for taken in [signal::SIGCHLD, signal::SIGINT, signal::SIGTERM] {
            mask.add(taken);
        }
        mask.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags)?;
        // `raw::hand_over_at_3` counts on it.
        if signals.as_raw_fd() != 3 {
            return Err(io::Error::other("fd 3 was open before init started"));
        }
        // Ctrl-alt-del becomes SIGINT.
        set_cad_enabled(false)?;
        Ok(Self {
            signals,
            buttons: Vec::new(),
            notify: None,
            pending: VecDeque::new(),
        })
    }

    /// Listens to one more input device.
    pub(crate) fn open_button(&mut self, path: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        self.buttons.push(options.open(path)?);
        Ok(())
    }

    /// Listens to this pipe from now on, and to no earlier one.
    pub(crate) fn hear(&mut self, notify: PipeReader) -> io::Result<()> {
        fcntl(&notify, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        self.notify = Some(notify);
        Ok(())
    }

    /// The next event, or [`Event::Timeout`] after `left`.
    pub(crate) fn next(&mut self, left: Duration) -> io::Result<Event> {
        if self.pending.is_empty() {
            self.collect(left)?;
        }
        Ok(self.pending.pop_front().unwrap_or(Event::Timeout))
    }

    fn collect(&mut self, left: Duration) -> io::Result<()> {
        // Rounded up, so that a wait never ends early.
        let left = left.saturating_add(Duration::from_micros(999));
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let buttons = self.buttons.iter().map(AsFd::as_fd);
        let notify = self.notify.iter().map(AsFd::as_fd);
        let mut fds: Vec<_> = iter::once(self.signals.as_fd())
            .chain(buttons)
            .chain(notify)
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.read_buttons()?;
        self.read_notify()?;
        self.read_signals()
    }

    fn read_buttons(&mut self) -> io::Result<()> {
        for button in &self.buttons {
            let mut events = [0; 24 * 16];
            let len = read_ready(button, &mut events)?.unwrap_or_default();
            let (events, _) = events.get(..len).unwrap_or_default().as_chunks();
            if events.iter().any(is_power_key) {
                let stop = Event::StopRequested("power button pressed");
                self.pending.push_back(stop);
            }
        }
        Ok(())
    }

    fn read_notify(&mut self) -> io::Result<()> {
        let Some(pipe) = &self.notify else {
            return Ok(());
        };
        let mut bytes = [0; 512];
        match read_ready(pipe, &mut bytes)? {
            None => {}
            // The agent closed its end: it will not be heard any more.
            Some(0) => self.notify = None,
            Some(len) => {
                let read = bytes.get(..len).unwrap_or_default();
                self.pending.push_back(Event::Notified(read.to_vec()));
            }
        }
        Ok(())
    }

    fn read_signals(&mut self) -> io::Result<()> {
        while let Some(info) = self.signals.read_signal()? {
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            match Signal::try_from(number)? {
                signal::SIGCHLD => self.reap()?,
                signal::SIGINT => self.pending.push_back(Event::StopRequested("SIGINT")),
                _ => self.pending.push_back(Event::StopRequested("SIGTERM")),
            }
        }
        Ok(())
    }

    /// One SIGCHLD may stand for several children.
    fn reap(&mut self) -> io::Result<()> {
        loop {
            let (child, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(child, status)) => (child, format!("exit status {status}")),
                Ok(WaitStatus::Signaled(child, signal, _)) => (child, signal.to_string()),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(_) => continue,
                Err(error) => return Err(error.into()),
            };
            let child = u32::try_from(child.as_raw()).map_err(io::Error::other)?;
            self.pending.push_back(Event::Exited { child, how });
        }
    }
}

/// What can be read without waiting, if anything.
fn read_ready(mut from: impl Read, to: &mut [u8]) -> io::Result<Option<usize>> {
    match from.read(to) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        read => read.map(Some),
    }
}

/// `struct input_event`: time 16, type u16, code u16, value i32
/// (Linux, `include/uapi/linux/input.h`).
fn is_power_key(event: &[u8; 24]) -> bool {
    let [kind, code] = [EV_KEY, KEY_POWER].map(u16::to_ne_bytes);
    let pressed = 1_i32.to_ne_bytes();
    event.ends_with(&[&kind[..], &code, &pressed].concat())
}

const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_power_key_going_down_is_a_press() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut event = [0xee; 24];
            event[16..18].copy_from_slice(&kind.to_ne_bytes());
            event[18..20].copy_from_slice(&code.to_ne_bytes());
            event[20..].copy_from_slice(&value.to_ne_bytes());
            event
        };
        assert!(is_power_key(&event(1, 116, 1)));
        for other in [event(0, 116, 1), event(1, 115, 1), event(1, 116, 0)] {
            assert!(!is_power_key(&other));
        }
    }

    #[test]
    fn a_pipe_is_read_without_waiting_until_it_is_closed() {
        let (reader, mut writer) = io::pipe().unwrap();
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut bytes = [0; 8];
        assert_eq!(read_ready(&reader, &mut bytes).unwrap(), None);
        io::Write::write_all(&mut writer, b"alive\n").unwrap();
        assert_eq!(read_ready(&reader, &mut bytes).unwrap(), Some(6));
        drop(writer);
        assert_eq!(read_ready(&reader, &mut bytes).unwrap(), Some(0));
    }
}
