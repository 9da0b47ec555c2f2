//! `--backend cuda` where there is no GPU: the tool says what is missing, and the CPU goes on.

mod common;

use common::alphabet::encoder;
use common::llama::llama;
use common::parrot::{model as parrot, wav};
use common::{Folder, example, whit};

/// What stands in the way here; `None` where a GPU is at hand.
fn obstacle(error: &str) -> Option<&'static str> {
    let expected = match cfg!(feature = "cuda") {
        false => vec!["this build has no CUDA backend; build with `--features cuda`"],
        true => vec!["libcuda.so", "NVRTC", "there is no CUDA device", "compute capability"],
    };
    expected.into_iter().find(|text| error.contains(text))
}

#[test]
fn what_is_missing_is_said() {
    let folder = Folder::new("cuda");
    let model = &folder.path("digits.whit");
    let converted = whit(&["convert", &example("digits.onnx"), "-o", model]);
    assert!(converted.status.success(), "{converted:?}");
    let data = example("digits-test.npz");
    let llama = llama(&folder, "llama.whit", 1, &[]);
    let (encoder, parrot) =
        (folder.write("encoder.whit", &encoder()), folder.write("parrot.whit", &parrot(&[])));
    let (words, sound) =
        (folder.write("words.txt", b"some words"), folder.write("sound.wav", &wav(0.2)));
    for command in [
        vec!["bench", model, "--seconds", "0.01"],
        vec!["verify", model],
        vec!["eval", model, "--data", &data],
        vec!["eval", &llama, "--perplexity", &words],
        vec!["generate", &llama, "--prompt", "a", "--max-tokens", "2"],
        vec!["generate", &llama, "--prompts", &words, "--max-tokens", "2"],
        vec!["embed", &encoder, "some words"],
        vec!["transcribe", &parrot, &sound],
    ] {
        let output = whit(&[&command[..], &["--backend", "cuda"]].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            println!("{}: ran on a GPU", command[0]);
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(obstacle(&error).is_some(), "{}: {error}", command[0]);
        assert!(error.contains("--backend cuda"), "{error}");
        let on_cpu = whit(&command);
        assert!(on_cpu.status.success(), "{on_cpu:?}");
    }
    // A device that isn't there, a backend that isn't one, and a command that the CPU alone has.
    let output = whit(&["bench", model, "--backend", "cuda", "--cuda-device", "77"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(whit(&["bench", model, "--backend", "tpu"]).status.code(), Some(2));
    let output =
        whit(&["monitor", "record", model, "--data", &data, "-o", "log", "--backend", "cuda"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
}
