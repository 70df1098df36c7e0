//! Asks a model directory: `ask DIR TEXT...` prints the answer, or embeds the texts, or
//! labels the images, or writes down the sounds, whose files they name, or
//! draws what the texts say, as PNG.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use futures_executor::{block_on, block_on_stream};
use inference::{
    Audio, Engine, Event, Image, Message, PictureRequest, Prompt, Request, Role, Task, Tenant,
    TranscriptRequest,
};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().unwrap_or_default());
    let start = Instant::now();
    let engine = Engine::load(&dir)?;
    eprintln!("{:?} in {:?}", engine.info(), start.elapsed());
    let texts: Vec<String> = args.collect();
    let start = Instant::now();
    match engine.info().task {
        Task::Classification => {
            let read = |path| Ok(Image::new(std::fs::read(path)?)?);
            let images: Vec<_> = texts.iter().map(read).collect::<anyhow::Result<_>>()?;
            println!(
                "{:?}",
                block_on(engine.classify(Tenant::new(), &images, 5)?)?
            );
            eprintln!("in {:?}", start.elapsed());
        }
        Task::Embedding => {
            let embeddings = block_on(engine.embed(&texts)?)?;
            println!("{:?}", embeddings.vectors);
            eprintln!("{:?} in {:?}", embeddings.usage, start.elapsed());
        }
        Task::Generation => {
            let prompt = texts.join(" ").into();
            let drawn = block_on(engine.picture(PictureRequest::new(prompt))?)?;
            for file in &drawn.files {
                std::io::stdout().write_all(file)?;
            }
            eprintln!("seed {} in {:?}", drawn.seed, start.elapsed());
        }
        Task::Transcription => {
            for path in texts {
                let audio = Audio::decode(&std::fs::read(path)?)?;
                let (long, start) = (audio.duration(), Instant::now());
                let heard = block_on(engine.transcribe(TranscriptRequest::new(audio))?)?;
                println!("{}", heard.text());
                eprintln!("{long:?} in {:?}", start.elapsed());
            }
        }
        Task::Chat => {
            let messages = texts.into_iter().map(|text| Message::new(Role::User, text));
            let request = Request {
                prompt: Prompt::Chat(messages.collect()),
                ..Request::default()
            };
            for event in block_on_stream(engine.answer(request)?) {
                match event? {
                    Event::Text { text, .. } => print!("{text}"),
                    call @ (Event::Call(_) | Event::Arguments(_)) => eprintln!("{call:?}"),
                    end @ Event::Finish { .. } => eprintln!("\n{end:?} in {:?}", start.elapsed()),
                }
            }
        }
    }
    Ok(())
}
