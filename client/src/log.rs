//! Where messages go: to the journal of systemd when it listens, else to standard error.

use std::io;

use anyhow::Context as _;
use systemd_journal_logger::{JournalLog, connected_to_journal};
use tracing::Level;

/// Sends everything from `level` up, from now on.
pub fn start(level: Level) -> anyhow::Result<()> {
    if connected_to_journal()
        && let Ok(journal) = JournalLog::new()
    {
        // `tracing` hands its events to `log` while it has no subscriber.
        journal
            .with_syslog_identifier("cocoon".into())
            .install()
            .context("cannot log to the journal")?;
        let level = level.as_str().parse();
        ::log::set_max_level(level.context("the level has no name in `log`")?);
        return Ok(());
    }
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_target(false)
        .with_max_level(level)
        .init();
    Ok(())
}
