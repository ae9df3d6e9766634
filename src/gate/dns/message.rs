//! Bytes to one question, and back to an answer (RFC 1035 section 4). Only the header and the first question
//! are read: nothing behind it changes what is answered.

use std::net::IpAddr;

use hickory_proto::op::{Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// Seconds that a program may remember an address. The address is the name's for the whole session, so this
/// only bounds how long a change of policy goes unnoticed by a program.
const TTL: u32 = 60;

/// What was asked.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::gate) enum Asked {
    /// For the addresses of a name.
    Address(Question, Family),
    /// For something that is not answered.
    Other(Question),
    /// A query, by its header, without a question that can be read.
    Malformed(Sent),
    /// No query: a response, or no message at all. Answering it would be a mistake (RFC 5625 section 4).
    Nothing,
}

/// The kind of address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gate) enum Family {
    /// `A`
    V4,
    /// `AAAA`
    V6,
}

/// What an answer repeats of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gate) struct Sent {
    id: u16,
    op_code: OpCode,
    recursion_desired: bool,
}

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::gate) struct Question {
    sent: Sent,
    query: Query,
}

impl Question {
    /// The name, escaped where it is none, without the last dot.
    pub(super) fn name(&self) -> String {
        let name = self.query.name().to_ascii();
        match name.strip_suffix('.') {
            Some(relative) if !relative.is_empty() => relative.to_owned(),
            _ => name,
        }
    }

    /// The type, and the class if it is not the Internet's.
    pub(super) fn kind(&self) -> String {
        let kind = self.query.query_type();
        let class = self.query.query_class();
        if class == DNSClass::IN {
            kind.to_string()
        } else {
            format!("{class} {kind}")
        }
    }
}

/// Reads a datagram, or a message of a stream.
pub(in crate::gate) fn read(bytes: &[u8]) -> Asked {
    let mut decoder = BinDecoder::new(bytes);
    let Ok(header) = Header::read(&mut decoder) else {
        return Asked::Nothing;
    };
    if header.message_type != MessageType::Query {
        return Asked::Nothing;
    }
    let sent = Sent {
        id: header.id,
        op_code: header.op_code,
        recursion_desired: header.recursion_desired,
    };
    if header.counts.queries == 0 {
        return Asked::Malformed(sent);
    }
    let Ok(query) = Query::read(&mut decoder) else {
        return Asked::Malformed(sent);
    };
    let families = [(RecordType::A, Family::V4), (RecordType::AAAA, Family::V6)];
    let family = families
        .into_iter()
        .find_map(|(kind, family)| (kind == query.query_type()).then_some(family));
    // RFC 9619: one question, no more. A second one would be a way to ask what is not on record.
    let one = header.counts.queries == 1 && header.op_code == OpCode::Query;
    let internet = query.query_class() == DNSClass::IN;
    let question = Question { sent, query };
    match family {
        Some(family) if one && internet => Asked::Address(question, family),
        _ => Asked::Other(question),
    }
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gate) enum Reply {
    Address(IpAddr),
    NoAddress,
    Refused,
    Malformed,
    Full,
}

/// The bytes of an answer.
pub(in crate::gate) fn write(asked: &Asked, reply: Reply) -> Option<Vec<u8>> {
    let (sent, query) = match asked {
        Asked::Address(question, _) | Asked::Other(question) => {
            (question.sent, Some(&question.query))
        }
        Asked::Malformed(sent) => (*sent, None),
        Asked::Nothing => return None,
    };
    let mut message = Message::response(sent.id, sent.op_code);
    message.metadata.recursion_desired = sent.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.response_code = match reply {
        Reply::Address(_) | Reply::NoAddress => ResponseCode::NoError,
        Reply::Refused => ResponseCode::Refused,
        Reply::Malformed => ResponseCode::FormErr,
        Reply::Full => ResponseCode::ServFail,
    };
    if let Some(query) = query {
        message.add_query(query.clone());
        if let Reply::Address(address) = reply {
            let data = match address {
                IpAddr::V4(v4) => RData::A(A(v4)),
                IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
            };
            message.add_answer(Record::from_rdata(query.name().clone(), TTL, data));
        }
    }
    message.to_vec().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Name;
    use proptest::prelude::*;

    fn query(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn asked(message: &Message) -> Asked {
        read(&message.to_vec().unwrap())
    }

    #[test]
    fn one_question_for_an_address_is_one_and_all_else_is_not() {
        let family = |message: &Message| match asked(message) {
            Asked::Address(question, family) => Some((question.name(), family)),
            Asked::Other(_) | Asked::Malformed(_) | Asked::Nothing => None,
        };
        let expected = Some(("API.test".to_owned(), Family::V4));
        assert_eq!(family(&query("API.test.", RecordType::A)), expected);
        let expected = Some(("a.test".to_owned(), Family::V6));
        assert_eq!(family(&query("a.test.", RecordType::AAAA)), expected);
        for other in [
            RecordType::TXT,
            RecordType::HTTPS,
            RecordType::SVCB,
            RecordType::ANY,
            RecordType::CNAME,
            RecordType::PTR,
            RecordType::Unknown(65_400),
        ] {
            assert!(
                matches!(asked(&query("a.test.", other)), Asked::Other(_)),
                "{other}"
            );
        }
        let mut two = query("a.test.", RecordType::A);
        two.add_query(Query::query(
            Name::from_ascii("b.test.").unwrap(),
            RecordType::A,
        ));
        assert!(matches!(asked(&two), Asked::Other(_)));
        let mut chaos = query("version.bind.", RecordType::A);
        chaos.queries[0].set_query_class(DNSClass::CH);
        let Asked::Other(question) = asked(&chaos) else {
            unreachable!()
        };
        assert_eq!(question.kind(), "CH A");
        let mut notify = query("a.test.", RecordType::A);
        notify.metadata.op_code = OpCode::Notify;
        assert!(matches!(asked(&notify), Asked::Other(_)));
        let mut response = query("a.test.", RecordType::A);
        response.metadata.message_type = MessageType::Response;
        assert_eq!(asked(&response), Asked::Nothing);
        let mut none = query("a.test.", RecordType::A);
        none.queries.clear();
        assert!(matches!(asked(&none), Asked::Malformed(_)));
        assert_eq!(read(b"garbage"), Asked::Nothing);
    }

    #[test]
    fn an_answer_repeats_the_question_as_it_was_written() {
        let question = query("ApI.test.", RecordType::A);
        let address = IpAddr::V4([198, 18, 1, 0].into());
        let bytes = write(&asked(&question), Reply::Address(address)).unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.id, question.id);
        assert_eq!(answer.queries, question.queries);
        assert_eq!(answer.answers[0].name.to_ascii(), "ApI.test.");
        assert_eq!(answer.answers[0].data, RData::A(A([198, 18, 1, 0].into())));
        let bytes = write(&asked(&question), Reply::Refused).unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.response_code, ResponseCode::Refused);
        assert!(answer.answers.is_empty());
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_read_and_what_is_answered_is_a_message(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
            flip in any::<prop::sample::Index>(),
            with in any::<u8>(),
        ) {
            let mut almost = query("a.very.long.name.test.", RecordType::HTTPS).to_vec().unwrap();
            let at = flip.index(almost.len());
            almost[at] = with;
            for bytes in [bytes, almost] {
                let asked = read(&bytes);
                if let Asked::Address(question, _) | Asked::Other(question) = &asked {
                    question.name();
                    question.kind();
                }
                if let Some(answer) = write(&asked, Reply::Refused) {
                    prop_assert_eq!(&answer[..2], &bytes[..2]);
                    Message::from_vec(&answer).unwrap();
                }
            }
        }
    }
}
