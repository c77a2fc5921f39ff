/* What upstream and client agree on: every byte of every answer, but for the time stamps. */
#ifndef WIRE_H
#define WIRE_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* A request names itself in its prompt, "#0123456789ab#"; the answer carries the same digits, so
 * that an answer to somebody else's request is seen. */
#define ID_DIGITS 12
#define SEQ_DIGITS 8
#define NS_DIGITS 19

/* Completion chunks as vLLM 0.32 writes them, about 250 bytes each. */
#define EVENT_START "data: {\"id\":\"cmpl-"
#define EVENT_TEXT \
    "-0\",\"object\":\"text_completion\",\"created\":1767225600,\"model\":\"m\"," \
    "\"choices\":[{\"index\":0,\"text\":\" "
#define EVENT_REASON "\",\"logprobs\":null,\"finish_reason\":"
#define EVENT_END \
    ",\"stop_reason\":null,\"prompt_token_ids\":null,\"token_ids\":null}],\"usage\":null}\n\n"
#define REASON_NONE "null"
#define REASON_LENGTH "\"length\""

#define ID_AT (sizeof(EVENT_START) - 1)
#define SEQ_AT (ID_AT + ID_DIGITS + sizeof(EVENT_TEXT) - 1)
#define NS_AT (SEQ_AT + SEQ_DIGITS + 1)
#define SUFFIX_AT (NS_AT + NS_DIGITS)
#define EVENT_LENGTH \
    (SUFFIX_AT + sizeof(EVENT_REASON) - 1 + sizeof(REASON_NONE) - 1 + sizeof(EVENT_END) - 1)
#define LAST_LENGTH (EVENT_LENGTH - sizeof(REASON_NONE) + sizeof(REASON_LENGTH))
#define DONE "data: [DONE]\n\n"

#define ANSWER_START "{\"id\":\"cmpl-"
#define ANSWER_END \
    "-0\",\"object\":\"text_completion\",\"created\":1767225600,\"model\":\"m\",\"choices\":[{" \
    "\"index\":0,\"text\":\" hello there, this is the kind of answer that a small model gives to a " \
    "short question\",\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null," \
    "\"token_ids\":null,\"prompt_logprobs\":null,\"prompt_token_ids\":null}]," \
    "\"service_tier\":null,\"system_fingerprint\":null,\"usage\":{\"prompt_tokens\":24," \
    "\"total_tokens\":40,\"completion_tokens\":16,\"prompt_tokens_details\":null}," \
    "\"kv_transfer_params\":null}"
#define ANSWER_LENGTH (sizeof(ANSWER_START) - 1 + ID_DIGITS + sizeof(ANSWER_END) - 1)

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void put_digits(char *at, int digits, uint64_t value) {
    while (digits--) {
        at[digits] = (char)('0' + value % 10);
        value /= 10;
    }
}

/* An event without its sequence number and time stamp; returns its length. */
static inline size_t make_event(char *to, const char *id, int last) {
    return (size_t)sprintf(to, EVENT_START "%.12s" EVENT_TEXT "%08d %019d" EVENT_REASON "%s" EVENT_END,
                           id, 0, 0, last ? REASON_LENGTH : REASON_NONE);
}

#endif
