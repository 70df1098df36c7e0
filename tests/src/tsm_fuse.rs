//! `/sys/kernel/config/tsm/report` over FUSE: a directory that behaves like the
//! kernel's, for programs that cannot tell.
//!
//! What is different, and can be seen: a failing signal in mid-read is scripted
//! ([`crate::kernel::Answer::Interrupted`]) and not a signal; a write of no
//! bytes succeeds; `pread` and `pwrite` on inblob and outblob do not.
//!
//! One thread serves all requests in their order, and a close is queued before
//! it returns: so what was closed is committed before the next call is seen.
//!
//! Mounting needs root and `/dev/fuse`.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenAccMode, OpenFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    SessionACL, TimeOrNow, WriteFlags,
};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::kernel::{Access, Attribute, EntryId, Kernel, Open};

/// A mounted report directory; unmounted when this goes, whoever looks at it.
pub struct TsmMount {
    at: PathBuf,
    kernel: Arc<Mutex<Kernel>>,
    _session: BackgroundSession,
}

impl TsmMount {
    /// Puts `kernel` under the directory `at`, made if it is missing, in place of
    /// what a killed process left there.
    pub fn new(kernel: Kernel, at: &Path) -> io::Result<Self> {
        if fs::metadata(at).is_err_and(|error| error.kind() == ErrorKind::NotConnected) {
            umount2(at, MntFlags::MNT_DETACH)?;
        }
        fs::create_dir_all(at)?;
        let kernel = Arc::new(Mutex::new(kernel));
        let files = ReportFiles {
            kernel: Arc::clone(&kernel),
            open: Mutex::default(),
            owners: Mutex::default(),
        };
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.mount_options = vec![
            MountOption::FSName("configfs-tsm".into()),
            MountOption::DefaultPermissions,
            MountOption::NoDev,
            MountOption::NoExec,
            MountOption::NoSuid,
        ];
        Ok(Self {
            at: at.to_owned(),
            kernel,
            _session: fuser::spawn_mount(files, at, &config)?,
        })
    }

    /// For setting traps.
    pub fn kernel(&self) -> MutexGuard<'_, Kernel> {
        lock(&self.kernel)
    }
}

impl Drop for TsmMount {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.at, MntFlags::MNT_DETACH) {
            eprintln!("{} is left mounted: {error}", self.at.display());
        }
    }
}

/// None where this machine cannot mount, which is an error in CI.
pub fn skip_without_fuse<T>(mounted: io::Result<T>) -> Option<T> {
    let error = match mounted {
        Ok(mount) => return Some(mount),
        Err(error) => error,
    };
    assert!(env::var_os("CI").is_none(), "cannot mount: {error}");
    println!("skipped: cannot mount: {error}");
    None
}

struct ReportFiles {
    kernel: Arc<Mutex<Kernel>>,
    /// By handle; the key after the last is free.
    open: Mutex<BTreeMap<u64, Open>>,
    /// Of nodes that were given away: user and group.
    owners: Mutex<BTreeMap<u64, (u32, u32)>>,
}

impl ReportFiles {
    fn find(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let name = name.to_str().ok_or(Errno::ENOENT)?;
        let node = match Node::of(parent)? {
            Node::Root => lock(&self.kernel)
                .entries()
                .find(|(entry, _)| *entry == name)
                .map(|(_, id)| Node::Entry(id)),
            Node::Entry(id) => Attribute::ALL
                .into_iter()
                .find(|attribute| attribute.name() == name)
                .map(|attribute| Node::Attribute(id, attribute)),
            Node::Attribute(..) => None,
        };
        Ok(self.attributes(node.ok_or(Errno::ENOENT)?))
    }

    fn make(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        match Node::of(parent)? {
            Node::Root => {
                let name = name.to_str().ok_or(Errno::EINVAL)?;
                let id = lock(&self.kernel).make(name)?;
                Ok(self.attributes(Node::Entry(id)))
            }
            Node::Entry(_) | Node::Attribute(..) => Err(Errno::EPERM),
        }
    }

    fn remove(&self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        match (Node::of(parent)?, name.to_str()) {
            (Node::Root, Some(name)) => lock(&self.kernel).remove(name),
            _ => Err(Errno::ENOENT),
        }
    }

    fn open(&self, ino: INodeNo, flags: OpenFlags) -> Result<(FileHandle, FopenFlags), Errno> {
        let Node::Attribute(entry, attribute) = Node::of(ino)? else {
            return Err(Errno::EISDIR);
        };
        let access = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => Access::Read,
            OpenAccMode::O_RDWR => Access::Both,
            OpenAccMode::O_WRONLY => Access::Write,
        };
        let file = lock(&self.kernel).open(entry, attribute, access)?;
        let mut open = lock(&self.open);
        let handle = open
            .last_key_value()
            .map_or(0, |(last, _)| last.wrapping_add(1));
        open.insert(handle, file);
        let seek = match attribute {
            Attribute::Inblob | Attribute::Outblob => FopenFlags::FOPEN_NONSEEKABLE,
            Attribute::Generation | Attribute::Provider => FopenFlags::empty(),
        };
        Ok((FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO | seek))
    }

    fn read(&self, handle: FileHandle, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let mut open = lock(&self.open);
        let file = open.get_mut(&handle.0).ok_or(Errno::EBADF)?;
        let mut kernel = lock(&self.kernel);
        let content = kernel.read(file)?;
        let content = usize::try_from(offset)
            .ok()
            .and_then(|offset| content.get(offset..))
            .unwrap_or_default();
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Ok(content.iter().copied().take(size).collect())
    }

    fn write(&self, handle: FileHandle, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let mut open = lock(&self.open);
        let file = open.get_mut(&handle.0).ok_or(Errno::EBADF)?;
        let offset = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
        lock(&self.kernel).write(file, offset, data)?;
        u32::try_from(data.len()).map_err(|_| Errno::EFBIG)
    }

    fn release(&self, handle: FileHandle) {
        if let Some(file) = lock(&self.open).remove(&handle.0) {
            lock(&self.kernel).release(file);
        }
    }

    fn list(&self, ino: INodeNo) -> Result<Vec<(Node, String)>, Errno> {
        let here = Node::of(ino)?;
        let children: Vec<_> = match here {
            Node::Root => lock(&self.kernel)
                .entries()
                .map(|(name, id)| (Node::Entry(id), name.to_owned()))
                .collect(),
            Node::Entry(id) => Attribute::ALL
                .map(|attribute| (Node::Attribute(id, attribute), attribute.name().into()))
                .into(),
            Node::Attribute(..) => return Err(Errno::ENOTDIR),
        };
        let dots = [(here, ".".into()), (Node::Root, "..".into())];
        Ok(dots.into_iter().chain(children).collect())
    }

    fn attributes(&self, node: Node) -> FileAttr {
        let ino = node.ino();
        let (uid, gid) = lock(&self.owners).get(&ino.0).copied().unwrap_or_default();
        FileAttr {
            ino,
            size: node.size(),
            blocks: 0,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind: node.kind(),
            perm: node.mode(),
            nlink: 1,
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for ReportFiles {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok(attributes) => reply.entry(&Duration::ZERO, &attributes, Generation(0)),
            Err(error) => reply.error(wire(error)),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match Node::of(ino) {
            Ok(node) => reply.attr(&Duration::ZERO, &self.attributes(node)),
            Err(error) => reply.error(wire(error)),
        }
    }

    /// Owners change, as init needs it; a size is ignored, as configfs does.
    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match Node::of(ino) {
            Ok(node) => {
                let FileAttr {
                    uid: was_uid,
                    gid: was_gid,
                    ..
                } = self.attributes(node);
                let owner = (uid.unwrap_or(was_uid), gid.unwrap_or(was_gid));
                lock(&self.owners).insert(ino.0, owner);
                reply.attr(&Duration::ZERO, &self.attributes(node));
            }
            Err(error) => reply.error(wire(error)),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        match self.make(parent, name) {
            Ok(attributes) => reply.entry(&Duration::ZERO, &attributes, Generation(0)),
            Err(error) => reply.error(wire(error)),
        }
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.remove(parent, name) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(wire(error)),
        }
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(wire(Errno::EPERM));
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        reply.error(wire(Errno::EACCES));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open(ino, flags) {
            Ok((handle, flags)) => reply.opened(handle, flags),
            Err(error) => reply.error(wire(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read(handle, offset, size) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(wire(error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.write(handle, offset, data) {
            Ok(len) => reply.written(len),
            Err(error) => reply.error(wire(error)),
        }
    }

    /// Each close of a duplicate comes here, and commits nothing.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.release(handle);
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let nodes = match self.list(ino) {
            Ok(nodes) => nodes,
            Err(error) => return reply.error(wire(error)),
        };
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (node, name)) in (1..).zip(nodes).skip(skip) {
            if reply.add(node.ino(), next, node.kind(), name) {
                break;
            }
        }
        reply.ok();
    }
}

/// What an inode number stands for: eight numbers for each entry.
#[derive(Clone, Copy)]
enum Node {
    Root,
    Entry(EntryId),
    Attribute(EntryId, Attribute),
}

impl Node {
    fn of(ino: INodeNo) -> Result<Self, Errno> {
        let entry = EntryId(ino.0 / NODES_PER_ENTRY);
        match ino.0 % NODES_PER_ENTRY {
            _ if ino == INodeNo::ROOT => Ok(Self::Root),
            0 => Ok(Self::Entry(entry)),
            1 => Ok(Self::Attribute(entry, Attribute::Generation)),
            2 => Ok(Self::Attribute(entry, Attribute::Inblob)),
            3 => Ok(Self::Attribute(entry, Attribute::Outblob)),
            4 => Ok(Self::Attribute(entry, Attribute::Provider)),
            _ => Err(Errno::ENOENT),
        }
    }

    const fn ino(self) -> INodeNo {
        let (entry, index) = match self {
            Self::Root => return INodeNo::ROOT,
            Self::Entry(entry) => (entry, 0),
            Self::Attribute(entry, Attribute::Generation) => (entry, 1),
            Self::Attribute(entry, Attribute::Inblob) => (entry, 2),
            Self::Attribute(entry, Attribute::Outblob) => (entry, 3),
            Self::Attribute(entry, Attribute::Provider) => (entry, 4),
        };
        INodeNo(
            entry
                .0
                .saturating_mul(NODES_PER_ENTRY)
                .saturating_add(index),
        )
    }

    const fn kind(self) -> FileType {
        match self {
            Self::Root | Self::Entry(_) => FileType::Directory,
            Self::Attribute(..) => FileType::RegularFile,
        }
    }

    const fn mode(self) -> u16 {
        match self {
            Self::Root | Self::Entry(_) => 0o755,
            Self::Attribute(_, Attribute::Generation | Attribute::Provider) => 0o444,
            Self::Attribute(_, Attribute::Inblob) => 0o200,
            Self::Attribute(_, Attribute::Outblob) => 0o400,
        }
    }

    /// A page for text, nothing for the others: as configfs has it.
    const fn size(self) -> u64 {
        match self {
            Self::Attribute(_, Attribute::Generation | Attribute::Provider) => 4096,
            _ => 0,
        }
    }
}

const NODES_PER_ENTRY: u64 = 8;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wire(error: Errno) -> fuser::Errno {
    io::Error::from(error).into()
}
