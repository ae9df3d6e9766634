//! Whatever is asked of the jail's name server, an answer is a well-formed message to just that question,
//! and none is much longer than the question (nothing to amplify with).
#![no_main]

use hickory_proto::op::{Message, MessageType};
use libfuzzer_sys::fuzz_target;
use portcullis::gate::fuzz::dns_answers;

fuzz_target!(|bytes: &[u8]| {
    for answer in dns_answers(bytes) {
        let message = Message::from_vec(&answer).expect("our own message");
        assert_eq!(message.metadata.message_type, MessageType::Response);
        assert_eq!(answer.get(..2), bytes.get(..2), "the number that was asked with");
        assert!(message.queries.len() <= 1 && message.answers.len() <= 1);
        for record in &message.answers {
            assert_eq!(Some(&record.name), message.queries.first().map(|query| query.name()));
        }
        // A compressed name of the question may be spelled out: at most 255 bytes (RFC 1035 2.3.4).
        assert!(answer.len() <= bytes.len() + 300, "{} of {}", answer.len(), bytes.len());
    }
});
