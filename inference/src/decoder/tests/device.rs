//! Decoders on the double of a GPU, beside the processor.

use gpu::Double;

use super::families::{DENSE, any_interleaving, most_difference};
use super::*;
use crate::decoder::device::Most;

pub(super) const MOST: Most = Most {
    rows: 256,
    spans: 16,
    exact: true,
};

#[test]
fn a_prompt_and_an_answer_cross_the_bus_once_each_way_in_a_step() {
    let mut reader = Reader::tiny(1, Cpu::detect()).on(Double::default(), true);
    let mut processor = Reader::tiny(1, Cpu::detect());
    let ids = [(3..80).collect(), vec![9], vec![5]];
    let [mut there, mut here] = [Read::default(), Read::default()];
    for ids in &ids {
        let before = reader.model.crossings();
        let found = reader.logits(&mut there, ids);
        let after = reader.model.crossings();
        assert_eq!((after.up - before.up, after.down - before.down), (1, 1));
        let expected = processor.logits(&mut here, ids);
        let differences = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let most = differences.fold(0.0, f32::max);
        println!("cocoon-tiny: {most}");
        assert!(most < 2e-3, "a logit differs by {most}");
    }
}

#[test]
fn every_dense_family_gives_the_logits_of_transformers_there() {
    for name in DENSE {
        for exact in [true, false] {
            let most = most_difference(name, |reader| reader.on(Double::default(), exact));
            println!("{name} {exact}: {most}");
            // Rows are multiplied as halves, or as upper halves.
            let tolerance = if exact { 4e-3 } else { 6e-2 };
            assert!(most < tolerance, "{name}: a logit differs by {most}");
        }
    }
}

#[test]
fn fp8_becomes_upper_halves_there() {
    let most = most_difference("qwen3_fp8", |reader| reader.on(Double::default(), true));
    println!("qwen3_fp8: {most}");
    assert!(most < 6e-2, "a logit differs by {most}");
}

#[test]
fn no_company_no_pieces_and_no_order_of_threads_change_a_bit_there() {
    // With and without biases, windows, and norms of heads and after parts.
    for name in ["qwen2", "gemma3"] {
        let mut turned = false;
        any_interleaving(name, |_, _| {
            let reader = Reader::open(&families::path(name), 1, Cpu::detect()).unwrap();
            turned = !turned;
            let device = if turned {
                Double::backwards()
            } else {
                Double::default()
            };
            reader.on(device, true)
        });
    }
}

#[test]
fn the_tokens_of_a_greedy_answer_are_the_same_there() {
    let start: Vec<u32> = (3..23).collect();
    let recite = |mut reader: Reader, best| {
        let (mut read, mut next, mut said) = (Read::default(), start.clone(), Vec::<u32>::new());
        for _ in 0..10 {
            let logits = reader.best(&mut read, &next, best);
            let likeliest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let token = logits.iter().position(|logit| *logit == likeliest).unwrap();
            next = vec![u32::try_from(token).unwrap()];
            said.extend(&next);
        }
        said
    };
    let here = recite(Reader::tiny(1, Cpu::detect()), None);
    for best in [None, Some(1)] {
        let there = Reader::tiny(1, Cpu::detect()).on(Double::default(), true);
        assert_eq!(recite(there, best), here);
    }
}

#[test]
fn the_likeliest_are_those_of_all_and_the_rest_is_left_out() {
    let mut reader = Reader::tiny(1, Cpu::detect()).on(Double::default(), true);
    let ids: Vec<u32> = (3..14).collect();
    let all = reader.logits(&mut Read::default(), &ids);
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|a, b| all[*b].total_cmp(&all[*a]).then(a.cmp(b)));
    for count in [1, 5, crate::sampler::FEW] {
        let found = reader.best(&mut Read::default(), &ids, Some(count));
        for (index, token) in order.iter().enumerate() {
            let expected = if index < count {
                all[*token]
            } else {
                f32::NEG_INFINITY
            };
            assert_eq!(found[*token].to_bits(), expected.to_bits());
        }
    }
    // Beside one of which all are wanted.
    let mut reads: [Read; 3] = Default::default();
    let [a, b, c] = reads.each_mut();
    let batch = &mut [(a, &ids[..]), (b, &ids[..9]), (c, &ids[..])];
    let found = reader.step_for(batch, &[Some(2), None, Some(1)]);
    let left = found
        .iter()
        .map(|row| row.iter().filter(|x| x.is_finite()).count());
    assert_eq!(left.collect::<Vec<_>>(), [2, all.len(), 1]);
    assert_eq!(found[0][order[1]], all[order[1]]);
}

#[test]
fn a_page_that_is_given_back_is_wiped_before_another_has_it() {
    let mut reader = Reader::tiny(1, Cpu::detect()).on(Double::default(), true);
    let mut read = Read::default();
    reader.logits(&mut read, &[5; 40]);
    let page = read.pages[0];
    assert!(
        reader
            .model
            .page(page)
            .iter()
            .any(|byte| *byte != 0 && *byte != 0xff)
    );
    reader.memory.leave(read.pages);
    reader.model.wipe(&mut reader.memory);
    assert!(reader.model.page(page).iter().all(|byte| *byte == 0));
}

#[test]
fn a_step_that_there_is_no_room_for_is_refused_and_the_next_one_is_not() {
    let mut reader = Reader::tiny(1, Cpu::detect()).on(Double::default(), true);
    let long = vec![7; MOST.rows + 1];
    let pages: Vec<_> = (0..long.len().div_ceil(32))
        .filter_map(|_| reader.memory.page())
        .collect();
    let span = |tokens| Span {
        tokens,
        position: 0,
        pages: &pages,
        sights: &[],
        wanted: true,
        best: None,
    };
    let many: Vec<_> = (0..=MOST.spans).map(|_| span(&long[..1])).collect();
    let Reader {
        model,
        pool,
        memory,
        work,
    } = &mut reader;
    let error = model
        .forward(pool, memory, &[span(&long)], work)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the number of rows in a step is 257"),
        "{error}"
    );
    let error = model.forward(pool, memory, &many, work).unwrap_err();
    assert!(
        error.to_string().contains("whose logits are wanted is 17"),
        "{error}"
    );
    let error = model
        .forward(pool, memory, &[span(&[u32::MAX])], work)
        .unwrap_err();
    let token = "a token is 4294967295, expected one of the vocabulary";
    assert!(error.to_string().contains(token), "{error}");
    assert!(!model.is_lost());
    let found = model
        .forward(pool, memory, &[span(&long[..9])], work)
        .unwrap();
    assert!(found.iter().all(|logit| logit.is_finite()));
}
