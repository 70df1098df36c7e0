//! `GET /network/offer`: what this worker can do, again whenever that has changed, and
//! at least every two seconds.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use inference::{Activity, Task};
use sealed::{Offer, OfferedModel};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Desk, Offered};

/// Until the connection is about to end.
pub(super) async fn watch(
    State(desk): State<Desk>,
    Extension(closing): Extension<CancellationToken>,
) -> Response {
    let watch = Watch {
        speeds: desk
            .network
            .models
            .values()
            .map(|_| Speed::default())
            .collect(),
        desk,
        closing,
        said: None,
    };
    let lines = stream::unfold(watch, |mut watch| async {
        let line = watch.next().await?;
        Some((Ok::<_, Infallible>(line), watch))
    });
    let kind = [(CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(lines)).into_response()
}

struct Watch {
    desk: Desk,
    closing: CancellationToken,
    /// One for each model.
    speeds: Vec<Speed>,
    said: Option<(Instant, Offer)>,
}

impl Watch {
    /// The next line; none after one that says that there will be no more.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let stop = self.desk.network.stop.is_cancelled();
            match &self.said {
                Some((_, said)) if said.draining => return None,
                // Only this connection, for another.
                Some(_) if self.closing.is_cancelled() && !stop => return None,
                _ => {}
            }
            let now = Instant::now();
            let offer = self.offer(now, stop);
            let news = self.said.as_ref().is_none_or(|(when, said)| {
                *said != offer || now.saturating_duration_since(*when) >= HEARTBEAT
            });
            if news {
                // Numbers and strings always have a JSON form.
                let mut line = serde_json::to_vec(&offer).unwrap_or_default();
                line.push(b'\n');
                self.said = Some((now, offer));
                return Some(line);
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                () = self.closing.cancelled() => {}
            }
        }
    }

    fn offer(&mut self, now: Instant, stop: bool) -> Offer {
        let desk = &self.desk;
        let models = desk.network.models.iter().zip(&mut self.speeds);
        Offer {
            worker: desk.network.id,
            draining: stop,
            models: models
                .map(|((name, model), speed)| {
                    let activity = model.engine().activity();
                    speed.measure(now, activity);
                    offered(name, model, activity, speed.rate, desk.link.ask(name))
                })
                .collect(),
        }
    }
}

fn offered(
    name: &str,
    model: &Offered,
    activity: Activity,
    tokens_per_second: u32,
    ask: u64,
) -> OfferedModel {
    let engine = model.engine();
    let slots = match engine.info().task {
        Task::Chat => u64::try_from(engine.limits().batch.max(1)).unwrap_or(u64::MAX),
        // One at a time, and only what waits is known.
        _ => 1,
    };
    let busy = activity.running.saturating_add(activity.waiting);
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    OfferedModel {
        name: name.to_owned(),
        root: model
            .served
            .model()
            .root
            .as_ref()
            .map(|root| format!("verity-sha256:{root}")),
        slots: narrow(slots),
        free: narrow(slots.saturating_sub(busy)),
        queued: narrow(activity.waiting),
        tokens_per_second,
        context: u32::try_from(engine.info().context).unwrap_or(u32::MAX),
        ask,
    }
}

/// How fast one answer of a model is made, in company.
#[derive(Default)]
struct Speed {
    last: Option<(Instant, u64)>,
    rate: u32,
}

impl Speed {
    /// Measured over whole heartbeats; as it was while there is nothing to do.
    fn measure(&mut self, now: Instant, activity: Activity) {
        let Some((then, made)) = self.last else {
            self.last = Some((now, activity.completion));
            return;
        };
        let time = now.saturating_duration_since(then);
        if time < HEARTBEAT {
            return;
        }
        self.last = Some((now, activity.completion));
        let made = activity
            .completion
            .saturating_sub(made)
            .saturating_mul(1000);
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let streams = activity.running.max(1);
        let rate = made.checked_div(millis.saturating_mul(streams));
        if let Some(rate) = rate.filter(|rate| *rate > 0) {
            self.rate = u32::try_from(rate).unwrap_or(u32::MAX);
        }
    }
}

/// However little happens.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// How often it is looked whether something did.
const LOOK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_that_of_one_answer_and_lasts_while_nothing_is_asked() {
        let start = Instant::now();
        let mut speed = Speed::default();
        let mut after = |seconds: u64, running: u64, completion: u64| {
            let activity = Activity {
                running,
                completion,
                ..Activity::default()
            };
            speed.measure(start + Duration::from_secs(seconds), activity);
            speed.rate
        };
        assert_eq!(after(0, 0, 1000), 0);
        assert_eq!(after(1, 4, 1100), 0, "not yet");
        assert_eq!(after(4, 4, 1800), 50);
        assert_eq!(after(9, 0, 1800), 50);
    }
}
