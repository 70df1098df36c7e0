//! `POST /v1/audio/transcriptions` and `POST /v1/audio/translations`: forms.
//!
//! * Honoured: `file` (WAV or FLAC, 25 MB), `model`, `prompt`, `response_format`,
//!   `temperature`; `language` and `timestamp_granularities` for transcriptions.
//! * Refused unless they say what happens anyway: `stream`, `chunking_strategy`,
//!   `include`, times of words.
//! * Refused: everything else.
//!
//! Files are taken [`UPLOADS`] at a time, of one client fewer, each in [`UPLOAD_TIME`], so
//! that those who send slowly or much hold little.

use std::time::Duration;

use attestation::aci::Unit;
use axum::Json;
use axum::extract::State;
use axum::extract::multipart::{Multipart, MultipartRejection};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use inference::{Audio, Segment, Transcript, TranscriptRequest};
use serde_json::{Map, Value, json};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::aside;
use super::asker::Asker;
use super::error::ApiError;
use super::fields::Fields;
use super::models::Models;
use super::room::Room;
use crate::receipts::Count;

pub(super) async fn transcribe(
    State(models): State<Models>,
    asker: Asker,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Response, ApiError> {
    create(models, asker, form, Task::Transcribe).await
}

pub(super) async fn translate(
    State(models): State<Models>,
    asker: Asker,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Response, ApiError> {
    create(models, asker, form, Task::Translate).await
}

#[derive(Clone, Copy, PartialEq)]
enum Task {
    Transcribe,
    Translate,
}

async fn create(
    models: Models,
    asker: Asker,
    form: Result<Multipart, MultipartRejection>,
    task: Task,
) -> Result<Response, ApiError> {
    let form = form.map_err(|_| ApiError::media_type("multipart/form-data"))?;
    let mut place = UPLOADS.hold(&asker.tenant);
    place.take(1)?;
    let form = timeout(UPLOAD_TIME, read(form)).await;
    let (file, mut fields) = form.map_err(|_| ApiError::request_timeout())??;
    // Files take long to decode.
    let tenant = asker.tenant.clone();
    let begun = aside(&tenant, move || {
        let name: String = fields.require("model", "a string")?;
        let model = models.get(&name)?;
        let asked = Asked::read(&mut fields, task)?;
        fields.finish()?;
        let audio = Audio::decode(&file).map_err(|error| ApiError::of_file(&error))?;
        // What the model sees as one, 20 ms, is counted as a token.
        let heard = audio.duration().as_millis().div_ceil(20);
        let count = Count {
            read: u64::try_from(heard).unwrap_or(u64::MAX),
            made: 0,
        };
        asker.charge(model, Unit::Sound, count)?;
        let request = TranscriptRequest {
            audio,
            language: asked.language.clone(),
            translate: task == Task::Translate,
            prompt: asked.prompt.clone(),
            temperature: asked.temperature,
            times: asked.format.has_times(),
            tenant: asker.tenant.clone(),
        };
        Ok((asked, model.engine().transcribe(request)?))
    });
    let (asked, pending) = begun.await?;
    drop(place);
    Ok(asked.respond(task, &pending.await?))
}

/// The file, and all other fields as if they had come as JSON.
async fn read(mut form: Multipart) -> Result<(Zeroizing<Vec<u8>>, Fields), ApiError> {
    let broken = |error: axum::extract::multipart::MultipartError| match error.status().as_u16() {
        413 => ApiError::too_large(MAX_FORM),
        _ => ApiError::not_json("The body is not form data."),
    };
    let (mut file, mut map) = (None, Map::new());
    let mut count = 0_usize;
    while let Some(field) = form.next_field().await.map_err(broken)? {
        count = count.saturating_add(1);
        if count > MAX_FIELDS {
            return Err(ApiError::too_many_values());
        }
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" {
            file = Some(Zeroizing::new(
                field.bytes().await.map_err(broken)?.to_vec(),
            ));
            continue;
        }
        let text = Value::String(field.text().await.map_err(broken)?);
        match (
            name.strip_suffix("[]"),
            map.get_mut(name.trim_end_matches("[]")),
        ) {
            (Some(_), Some(Value::Array(texts))) => texts.push(text),
            (Some(list), _) => drop(map.insert(list.to_owned(), json!([text]))),
            (None, _) => drop(map.insert(name, text)),
        }
    }
    let file = file.ok_or_else(|| {
        let message = "Missing required parameter: 'file'.";
        ApiError::invalid("file", "missing_required_parameter", message)
    })?;
    Ok((file, Fields::of_form(map)))
}

/// What is asked for, beside the file and the model.
struct Asked {
    language: Option<String>,
    prompt: Zeroizing<String>,
    temperature: f64,
    format: Format,
}

#[derive(Clone, Copy)]
enum Format {
    Json,
    Srt,
    Text,
    VerboseJson,
    Vtt,
}

impl Format {
    fn has_times(self) -> bool {
        matches!(self, Self::Srt | Self::VerboseJson | Self::Vtt)
    }
}

impl Asked {
    fn read(fields: &mut Fields, task: Task) -> Result<Self, ApiError> {
        let invalid = |name: &'static str, expected: &str| {
            let message = format!("Invalid value for '{name}': expected {expected}.");
            ApiError::invalid(name, "invalid_value", message)
        };
        let format: Option<String> = fields.take("response_format", "a string")?;
        let format = match format.as_deref() {
            None | Some("json") => Format::Json,
            Some("srt") => Format::Srt,
            Some("text") => Format::Text,
            Some("verbose_json") => Format::VerboseJson,
            Some("vtt") => Format::Vtt,
            Some(_) => {
                let expected = "'json', 'srt', 'text', 'verbose_json' or 'vtt'";
                return Err(invalid("response_format", expected));
            }
        };
        let temperature: Option<String> = fields.take("temperature", "a number")?;
        let temperature = temperature.map_or(Ok(0.0), |text| text.trim().parse());
        let temperature = temperature.map_err(|_| invalid("temperature", "a number"))?;
        let mut language = None;
        if task == Task::Transcribe {
            let code: Option<String> = fields.take("language", "a string")?;
            let code = code.map(|code| code.trim().to_ascii_lowercase());
            language = code.filter(|code| !code.is_empty());
            let times = "timestamp_granularities";
            let asked: Option<Vec<String>> = fields.take(times, "an array of strings")?;
            if asked.is_some_and(|asked| asked.iter().any(|of| of != "segment")) {
                return Err(invalid(times, "'segment'"));
            }
        }
        let prompt: Option<String> = fields.take("prompt", "a string")?;
        fields.allow_only(&[
            ("chunking_strategy", vec![json!("auto")]),
            ("include", vec![]),
            ("stream", vec![json!("false")]),
        ])?;
        Ok(Self {
            language,
            prompt: Zeroizing::new(prompt.unwrap_or_default()),
            temperature,
            format,
        })
    }

    fn respond(&self, task: Task, heard: &Transcript) -> Response {
        let text = heard.text();
        // As it is charged for: whole seconds, upwards.
        let seconds = heard.duration.as_millis().div_ceil(1000);
        let usage = json!({"type": "duration", "seconds": seconds});
        let task = match task {
            Task::Transcribe => "transcribe",
            Task::Translate => "translate",
        };
        let plain = |kind, text: String| ([(CONTENT_TYPE, kind)], text).into_response();
        match self.format {
            Format::Json => Json(json!({"text": text, "usage": usage})).into_response(),
            Format::Text => plain("text/plain; charset=utf-8", text + "\n"),
            Format::Srt => plain("text/plain; charset=utf-8", subtitles(heard, ',', "")),
            Format::Vtt => plain(
                "text/vtt; charset=utf-8",
                subtitles(heard, '.', "WEBVTT\n\n"),
            ),
            Format::VerboseJson => {
                let segments = heard.segments.iter().enumerate();
                let segments = segments.map(|(id, segment)| self.segment(id, segment));
                Json(json!({
                    "task": task,
                    "language": language(heard.language.as_deref().unwrap_or("en")),
                    "duration": heard.duration.as_secs_f64(),
                    "text": text,
                    "segments": segments.collect::<Vec<_>>(),
                    "usage": usage,
                }))
                .into_response()
            }
        }
    }

    fn segment(&self, id: usize, segment: &Segment) -> Value {
        json!({
            "id": id,
            // In frames of 10 ms.
            "seek": segment.seek.as_millis() / 10,
            "start": segment.start.as_secs_f64(),
            "end": segment.end.as_secs_f64(),
            "text": segment.text,
            "tokens": segment.tokens,
            "temperature": self.temperature,
            "avg_logprob": segment.mean_logprob,
            "compression_ratio": compression(&segment.text),
            "no_speech_prob": segment.no_speech,
        })
    }
}

/// How much shorter zlib makes a text: what repeats itself was rarely said.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "lengths of a sentence"
)]
fn compression(text: &str) -> f64 {
    let packed = miniz_oxide::deflate::compress_to_vec_zlib(text.as_bytes(), 6);
    text.len() as f64 / packed.len().max(1) as f64
}

/// SubRip numbers its entries, WebVTT has a head; what parts seconds and their
/// fraction is the other difference.
fn subtitles(heard: &Transcript, point: char, head: &str) -> String {
    let mut text = head.to_owned();
    for (index, segment) in (1_usize..).zip(&heard.segments) {
        if head.is_empty() {
            text += &format!("{index}\n");
        }
        let [start, end] = [segment.start, segment.end].map(|time| clock(time, point));
        // An arrow in a line would make it a line of times.
        let line = segment
            .text
            .trim()
            .replace("-->", "->")
            .replace(['\r', '\n'], " ");
        text += &format!("{start} --> {end}\n{line}\n\n");
    }
    text
}

fn clock(time: Duration, point: char) -> String {
    let (seconds, millis) = (time.as_secs(), time.subsec_millis());
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}{point}{millis:03}")
}

/// The English name of a language, as this API has it; the code if it is not here.
fn language(code: &str) -> &str {
    let mut names = LANGUAGES.split(',').filter_map(|pair| pair.split_once(':'));
    names
        .find(|(known, _)| *known == code)
        .map_or(code, |(_, name)| name)
}

const LANGUAGES: &str = "af:afrikaans,am:amharic,ar:arabic,as:assamese,az:azerbaijani,ba:bashkir,\
be:belarusian,bg:bulgarian,bn:bengali,bo:tibetan,br:breton,bs:bosnian,ca:catalan,cs:czech,cy:welsh,\
da:danish,de:german,el:greek,en:english,es:spanish,et:estonian,eu:basque,fa:persian,fi:finnish,\
fo:faroese,fr:french,gl:galician,gu:gujarati,ha:hausa,haw:hawaiian,he:hebrew,hi:hindi,hr:croatian,\
ht:haitian creole,hu:hungarian,hy:armenian,id:indonesian,is:icelandic,it:italian,ja:japanese,\
jw:javanese,ka:georgian,kk:kazakh,km:khmer,kn:kannada,ko:korean,la:latin,lb:luxembourgish,ln:lingala,\
lo:lao,lt:lithuanian,lv:latvian,mg:malagasy,mi:maori,mk:macedonian,ml:malayalam,mn:mongolian,\
mr:marathi,ms:malay,mt:maltese,my:myanmar,ne:nepali,nl:dutch,nn:nynorsk,no:norwegian,oc:occitan,\
pa:punjabi,pl:polish,ps:pashto,pt:portuguese,ro:romanian,ru:russian,sa:sanskrit,sd:sindhi,\
si:sinhala,sk:slovak,sl:slovenian,sn:shona,so:somali,sq:albanian,sr:serbian,su:sundanese,sv:swedish,\
sw:swahili,ta:tamil,te:telugu,tg:tajik,th:thai,tk:turkmen,tl:tagalog,tr:turkish,tt:tatar,\
uk:ukrainian,ur:urdu,uz:uzbek,vi:vietnamese,yi:yiddish,yo:yoruba,yue:cantonese,zh:chinese";

/// Forms that are read at a time, and those of one client.
static UPLOADS: Room = Room::new(8, 2);

/// More than there are parameters: each costs more than what it came as.
const MAX_FIELDS: usize = 64;

/// For a whole form.
const UPLOAD_TIME: Duration = Duration::from_secs(120);

/// A file of 25 MB, as the real API takes, and what is around it.
pub(super) const MAX_FORM: usize = (25 << 20) + (64 << 10);
