//! What the user types: a thread that hands it to the board, where it waits for the serial port or the firmware.

use super::board::Board;
use super::lock;
use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The most that waits for the guest; the user's next input then waits outside.
const ROOM: usize = 64;

/// Input the guest has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// The bytes.
    pub(super) waiting: VecDeque<u8>,
    /// No more will come.
    pub(super) ended: bool,
}

/// Starts to read standard input.
pub(super) fn start(board: &Arc<Mutex<Board>>) {
    let board = Arc::clone(board);
    // Without the thread there is no input, and a guest that waits for it waits until its time is over.
    drop(std::thread::Builder::new().name("input".to_owned()).spawn(move || forward(&board)));
}

fn forward(board: &Mutex<Board>) {
    for byte in std::io::stdin().lock().bytes().map_while(Result::ok) {
        while lock(board).input.waiting.len() >= ROOM {
            std::thread::sleep(Duration::from_millis(10));
        }
        lock(board).receive(byte);
    }
    lock(board).input.ended = true;
}
