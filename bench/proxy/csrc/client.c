/* A client that checks every byte: one thread, epoll, raw sockets; prints one JSON object.
 *
 *   client --port N | --unix PATH   where
 *          --mode requests|streams  one answer after the other, or streams
 *          --connections N --seconds T [--once 1: one request per connection] [--grace S]
 *          --chunks N --rate R      what the upstream is asked for (see upstream.c)
 *          [--key K] [--model M] [--usage 1] [--addresses N: of 127.0.0.x] [--ramp N]
 *          [--warm S: not timed] [--loose 1: any answer of status 200 will do]
 *          [--announce 1: a line "open" once every stream has begun]
 *
 * Each connection is a closed loop. Latency: request to the answer's last byte. Chunk delay: the
 * upstream's time stamp in the chunk to its arrival here (both on CLOCK_MONOTONIC).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "wire.h"

#define FINE_BITS 7
#define FINE (1 << FINE_BITS)  /* buckets a doubling: within 0.8 % */
#define BUCKETS (64 * FINE)
#define USAGE "\"choices\":[],\"usage\":{\"prompt_tokens\":24,"
#define SCRATCH 262144

enum framing { BY_LENGTH, BY_CHUNKS, BY_CLOSE };
enum tail { NOT_YET, EXPECTED, OVER };  /* of a stream, after its last chunk */
enum phase { CONNECTING, HEAD, BODY, CHUNK_LINE, CHUNK_DATA, CHUNK_END, TRAILER, IDLE };

struct conn {
    int fd, number, ended;
    enum phase phase;
    enum framing framing;
    int close_after, started, status;
    uint64_t left, sent_ns, served;
    char *kept; size_t kept_len, kept_cap;  /* a head or a chunk's line that is not complete yet */
    char id[ID_DIGITS + 1];
    uint32_t seq; enum tail tail; int usage_seen, wrong;
    char expected[LAST_LENGTH + 1];         /* the next event, but for its time stamp */
    char item[LAST_LENGTH + 1]; size_t item_at;  /* the event (or answer) that is arriving */
    size_t answer_at;
};

static struct {
    const char *host, *path, *mode, *key, *model;
    int port, connections, once, usage, addresses, ramp, loose, announce;
    double seconds, grace, warm;
    long chunks, rate;
} given = {.host = "127.0.0.1", .mode = "requests", .key = "", .model = "m", .connections = 1,
           .addresses = 1, .ramp = 512, .seconds = 3, .grace = 5, .chunks = 100};

static struct { uint64_t count[BUCKETS], n, sum, max; } latency, delay, first;
static uint64_t requests, chunks, chunks_in_time, errors, lost, wrong, unfinished, bytes, reconnects, begun;
static uint64_t start_ns, warm_ns, until_ns, last_ns, now;
static char first_error[512];
static int poller, live, opening, streaming;
static struct conn *conns;
static int next_to_open;

static void die(const char *what) { perror(what); exit(1); }

#define RECORD(h, ns) do { uint64_t v_ = (ns); if (now < warm_ns) break; (h).count[bucket_of(v_)]++; (h).n++; \
    (h).sum += v_; if (v_ > (h).max) (h).max = v_; } while (0)

static int bucket_of(uint64_t ns) {
    if (ns < FINE) return (int)ns;
    int top = 63 - __builtin_clzll(ns);
    return (top - FINE_BITS + 1) * FINE + (int)((ns >> (top - FINE_BITS)) & (FINE - 1));
}

static double quantile_us(const uint64_t *count, uint64_t n, double q) {
    uint64_t want = (uint64_t)(q * (double)n), seen = 0;
    for (int b = 0; b < BUCKETS; b++) {
        seen += count[b];
        if (seen > want) {
            if (b < FINE) return b / 1e3;
            int top = b / FINE + FINE_BITS - 1;
            return (double)(1ull << top) * (1.0 + (b % FINE + 0.5) / FINE) / 1e3;
        }
    }
    return 0;
}

static void note(struct conn *c, const char *what, const char *data, size_t n) {
    if (first_error[0]) return;
    int at = snprintf(first_error, 200, "%s (connection %d, request %llu, chunk %u): ", what,
                      c->number, (unsigned long long)c->served, c->seq);
    for (size_t i = 0; i < n && at < 500; i++) {  /* readable, and safe inside JSON */
        char b = data[i];
        first_error[at++] = b == '"' || b == '\\' ? '\'' : b < 32 || b > 126 ? '.' : b;
    }
}

/* An answer that is not, byte for byte, the one that was asked for. */
static void is_wrong(struct conn *c, const char *what, const char *data, size_t n) {
    note(c, what, data, n);
    if (!c->wrong) wrong++;
    c->wrong = 1;
}

static int open_one(struct conn *c);

static int send_request(struct conn *c) {
    char body[1024], data[2048];
    snprintf(c->id, sizeof c->id, "%05x%07llx", c->number & 0xfffff,
             (unsigned long long)(++c->served & 0xfffffff));
    int n = sprintf(body, "{\"model\":\"%s\",\"prompt\":\"bench #%s# Why is the sky blue, and why are "
                    "the clouds in it white? Answer in one sentence.\",\"temperature\":0", given.model,
                    c->id);
    if (streaming)
        n += sprintf(body + n, ",\"max_tokens\":%ld,\"seed\":%ld,\"stream\":true%s}", given.chunks,
                     given.rate, given.usage ? ",\"stream_options\":{\"include_usage\":true}" : "");
    else n += sprintf(body + n, ",\"max_tokens\":16}");
    int at = sprintf(data, "POST /v1/completions HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench/1\r\n"
                     "Accept: application/json\r\nContent-Type: application/json\r\n");
    if (given.key[0]) at += sprintf(data + at, "Authorization: Bearer %s\r\n", given.key);
    at += sprintf(data + at, "Content-Length: %d\r\n\r\n%s", n, body);
    make_event(c->expected, c->id, 0);
    c->phase = HEAD;
    c->kept_len = 0;
    c->seq = 0;
    c->tail = NOT_YET;
    c->usage_seen = c->started = c->wrong = 0;
    c->item_at = c->answer_at = 0;
    c->sent_ns = now_ns();
    return send(c->fd, data, (size_t)at, MSG_NOSIGNAL) == at ? 0 : -1;
}

static void end_connection(struct conn *c) {
    if (c->ended) return;
    c->ended = 1;
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    live--;
}

/* The request failed: count it, and go on with a new connection while there is time. */
static void failed(struct conn *c, const char *what, const char *data, size_t n) {
    errors++;
    note(c, what, data, n);
    if (streaming && c->started && c->tail == NOT_YET) lost += (uint64_t)given.chunks - c->seq;
    if (c->phase == CONNECTING) opening--;
    close(c->fd);
    c->fd = -1;
    if (given.once || now >= until_ns || errors > 10000) { end_connection(c); return; }
    if (open_one(c)) end_connection(c);
}

static void finished(struct conn *c) {
    now = now_ns();
    last_ns = now;
    if (streaming && !given.loose && c->tail != OVER) { failed(c, "the stream has no end", "", 0); return; }
    if (!streaming && !given.loose && c->answer_at != ANSWER_LENGTH) { failed(c, "short answer", "", 0); return; }
    requests++;
    RECORD(latency, now - c->sent_ns);
    c->phase = IDLE;
    if (given.once || now >= until_ns) { end_connection(c); return; }
    if (c->close_after) {
        reconnects++;
        close(c->fd);
        if (open_one(c)) end_connection(c);
    } else if (send_request(c)) failed(c, "cannot send", "", 0);
}

/* One whole event. Where it is a later one than expected, those between are lost. */
static void take_event(struct conn *c, size_t n) {
    if (c->seq + 1 == (uint32_t)given.chunks) make_event(c->expected, c->id, 1);
    put_digits(c->expected + SEQ_AT, SEQ_DIGITS, c->seq);
    memcpy(c->expected + NS_AT, c->item + NS_AT, NS_DIGITS);
    if (memcmp(c->expected, c->item, n)) {
        is_wrong(c, "wrong event", c->item, n);
        char digits[SEQ_DIGITS + 1] = {0};
        memcpy(digits, c->item + SEQ_AT, SEQ_DIGITS);
        uint32_t got = (uint32_t)strtoul(digits, NULL, 10);
        if (got > c->seq) { lost += got - c->seq; c->seq = got; }
    }
    uint64_t sent = strtoull(c->item + NS_AT, NULL, 10);
    RECORD(delay, now > sent ? now - sent : 0);
    if (!c->started) {
        RECORD(first, now - c->sent_ns);
        if (++begun == (uint64_t)given.connections && given.announce) {
            puts("open");
            fflush(stdout);
        }
    }
    c->started = 1;
    c->seq++;
    chunks++;
    if (now <= until_ns) chunks_in_time++;
    if (c->seq == (uint32_t)given.chunks) c->tail = EXPECTED;
}

/* What follows the last chunk: the usage event where it was asked for, and [DONE]. */
static void take_tail(struct conn *c) {
    if (c->item_at == sizeof(DONE) - 1 && !memcmp(c->item, DONE, sizeof(DONE) - 1)) {
        c->tail = OVER;
        if (!given.usage || c->usage_seen) return;
    } else if (given.usage && !c->usage_seen &&
               memmem(c->item, c->item_at, USAGE, sizeof(USAGE) - 1)) {
        c->usage_seen = 1;
        return;
    }
    is_wrong(c, "wrong end", c->item, c->item_at);
}

/* Bytes of an event stream, in pieces of any size; -1 when they cannot be what was asked for. */
static int take_stream(struct conn *c, const char *data, size_t n) {
    while (n) {
        if (c->tail == OVER) { is_wrong(c, "bytes after [DONE]", data, n); return -1; }
        size_t want = c->seq + 1 == (uint32_t)given.chunks ? LAST_LENGTH : EVENT_LENGTH;
        size_t part = want - c->item_at < n ? want - c->item_at : n;
        if (c->tail == EXPECTED) {  /* of no known length: up to the empty line */
            want = LAST_LENGTH;
            part = 1;
        }
        memcpy(c->item + c->item_at, data, part);
        c->item_at += part; data += part; n -= part;
        if (c->tail == EXPECTED) {
            if (c->item_at == want) { is_wrong(c, "endless event", c->item, want); return -1; }
            if (c->item_at < 2 || memcmp(c->item + c->item_at - 2, "\n\n", 2)) continue;
            take_tail(c);
        } else {
            if (c->item_at < want) return 0;
            c->item[want] = 0;
            take_event(c, want);
        }
        c->item_at = 0;
    }
    return 0;
}

static int take_answer(struct conn *c, const char *data, size_t n) {
    char expected[ANSWER_LENGTH + 1];
    sprintf(expected, ANSWER_START "%s" ANSWER_END, c->id);
    if (c->answer_at + n > ANSWER_LENGTH || memcmp(expected + c->answer_at, data, n)) {
        is_wrong(c, "wrong answer", data, n);
        return -1;
    }
    c->answer_at += n;
    return 0;
}

static int take_body(struct conn *c, const char *data, size_t n) {
    if (given.loose) return 0;
    return streaming ? take_stream(c, data, n) : take_answer(c, data, n);
}

/* The answer's head; the number of its bytes, 0 while incomplete, -1 when it cannot be used. */
static long take_head(struct conn *c, const char *data, size_t n) {
    const char *end = memmem(data, n, "\r\n\r\n", 4);
    if (!end) return n > 16384 ? -1 : 0;
    if (n < 13 || strncmp(data, "HTTP/1.1 ", 9)) return -1;
    c->status = atoi(data + 9);
    c->framing = BY_CLOSE;
    c->left = 0;
    c->close_after = 0;
    for (const char *line = data; line < end + 2;) {
        if (!strncasecmp(line, "content-length:", 15)) {
            c->framing = BY_LENGTH;
            c->left = strtoull(line + 15, NULL, 10);
        } else if (!strncasecmp(line, "transfer-encoding: chunked", 26)) c->framing = BY_CHUNKS;
        else if (!strncasecmp(line, "connection: close", 17)) c->close_after = 1;
        line = (const char *)memmem(line, (size_t)(end + 4 - line), "\r\n", 2) + 2;
    }
    if (c->framing == BY_CLOSE) c->close_after = 1;
    return end + 4 - data;
}

static void keep(struct conn *c, const char *data, size_t n) {
    if (n > c->kept_cap) {
        c->kept = realloc(c->kept, n);
        if (!c->kept) die("realloc");
        c->kept_cap = n;
    }
    if (n) memmove(c->kept, data, n);
    c->kept_len = n;
}

/* Take what arrived; returns how much of it, -1 on a broken answer. Sets IDLE at its end. */
static long take(struct conn *c, const char *data, size_t n) {
    size_t at = 0;
    while (at < n) {
        const char *p = data + at;
        size_t rest = n - at, part;
        const char *line_end;
        long head;
        switch (c->phase) {
        case HEAD:
            head = take_head(c, p, rest);
            if (head <= 0) return head < 0 ? -1 : (long)at;
            if (c->status != 200) { note(c, "status", p, rest); return -1; }
            at += (size_t)head;
            c->phase = c->framing == BY_CHUNKS ? CHUNK_LINE : BODY;
            if (c->framing == BY_LENGTH && !c->left) c->phase = IDLE;
            break;
        case BODY:
            part = c->framing == BY_LENGTH && c->left < rest ? c->left : rest;
            if (take_body(c, p, part)) return -1;
            at += part;
            if (c->framing == BY_LENGTH && !(c->left -= part)) c->phase = IDLE;
            break;
        case CHUNK_LINE:
            line_end = memmem(p, rest, "\r\n", 2);
            if (!line_end) return rest > 64 ? -1 : (long)at;
            c->left = strtoull(p, NULL, 16);
            at += (size_t)(line_end + 2 - p);
            c->phase = c->left ? CHUNK_DATA : TRAILER;
            break;
        case CHUNK_DATA:
            part = c->left < rest ? c->left : rest;
            if (take_body(c, p, part)) return -1;
            at += part;
            if (!(c->left -= part)) c->phase = CHUNK_END;
            break;
        case CHUNK_END:
        case TRAILER:
            if (rest < 2) return (long)at;
            if (memcmp(p, "\r\n", 2)) { note(c, "broken chunk", p, rest); return -1; }
            at += 2;
            c->phase = c->phase == TRAILER ? IDLE : CHUNK_LINE;
            break;
        default:
            note(c, "bytes after the answer", p, rest);
            return -1;
        }
    }
    return (long)at;
}

static void on_readable(struct conn *c) {
    static char data[SCRATCH + 1];
    if (c->kept_len) memcpy(data, c->kept, c->kept_len);
    ssize_t got = recv(c->fd, data + c->kept_len, SCRATCH - c->kept_len, MSG_DONTWAIT);
    if (got < 0) {
        if (errno != EAGAIN) failed(c, strerror(errno), "", 0);
        return;
    }
    now = now_ns();
    if (got == 0) {
        if (c->phase == BODY && c->framing == BY_CLOSE) finished(c);
        else failed(c, "connection closed", "", 0);
        return;
    }
    bytes += (uint64_t)got;
    size_t n = c->kept_len + (size_t)got;
    data[n] = 0;
    long taken = take(c, data, n);
    if (taken < 0) { failed(c, "broken answer", data, n < 300 ? n : 300); return; }
    if (c->phase == IDLE) finished(c);
    else keep(c, data + taken, n - (size_t)taken);
}

static int open_one(struct conn *c) {
    struct epoll_event e = {.events = EPOLLOUT, .data.ptr = c};
    int code, one = 1;
    c->phase = CONNECTING;
    if (given.path) {
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        strncpy(to.sun_path, given.path, sizeof(to.sun_path) - 1);
        c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        code = connect(c->fd, (struct sockaddr *)&to, sizeof to);
    } else {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)given.port)};
        struct sockaddr_in from = {.sin_family = AF_INET};
        inet_pton(AF_INET, given.host, &to.sin_addr);
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (c->fd < 0) return -1;
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (given.addresses > 1) {
            from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(c->number % given.addresses));
            setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
            if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) return -1;
        }
        code = connect(c->fd, (struct sockaddr *)&to, sizeof to);
        if (code && errno == EINPROGRESS) code = 0;
    }
    if (c->fd < 0 || code || epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e)) {
        errors++;
        note(c, strerror(errno), "", 0);
        return -1;
    }
    opening++;
    return 0;
}

static void on_connected(struct conn *c) {
    int error = 0;
    socklen_t n = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &n);
    if (error) { failed(c, strerror(error), "", 0); return; }
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
    opening--;
    if (send_request(c)) failed(c, "cannot send", "", 0);
}

static void open_more(void) {
    while (next_to_open < given.connections && opening < given.ramp)
        if (open_one(&conns[next_to_open++])) end_connection(&conns[next_to_open - 1]);
}

static void report(void) {
    double seconds = (double)((last_ns > until_ns || given.once ? last_ns : until_ns) - start_ns) / 1e9;
    double window = (double)(until_ns - start_ns) / 1e9;
    printf("{\"seconds\": %.6f, \"window\": %.6f, \"requests\": %llu, \"chunks\": %llu, "
           "\"chunks_in_time\": %llu, \"errors\": %llu, \"wrong\": %llu, \"lost\": %llu, "
           "\"unfinished\": %llu, \"reconnects\": %llu, \"bytes\": %llu, ", seconds, window,
           (unsigned long long)requests, (unsigned long long)chunks,
           (unsigned long long)chunks_in_time, (unsigned long long)errors,
           (unsigned long long)wrong, (unsigned long long)lost, (unsigned long long)unfinished,
           (unsigned long long)reconnects, (unsigned long long)bytes);
#define SHOW(h, name) printf("\"" name "\": {\"n\": %llu, \"mean\": %.2f, \"p50\": %.2f, " \
        "\"p90\": %.2f, \"p99\": %.2f, \"p999\": %.2f, \"max\": %.2f}, ", (unsigned long long)h.n, \
        h.n ? (double)h.sum / (double)h.n / 1e3 : 0.0, quantile_us(h.count, h.n, 0.5), \
        quantile_us(h.count, h.n, 0.9), quantile_us(h.count, h.n, 0.99), \
        quantile_us(h.count, h.n, 0.999), (double)h.max / 1e3)
    SHOW(latency, "latency_us"); SHOW(delay, "delay_us"); SHOW(first, "first_us");
    printf("\"first_error\": \"%s\"}\n", first_error);
}

static void read_options(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i] + 2, *v = argv[i + 1];
        if (!strcmp(name, "port")) given.port = atoi(v);
        else if (!strcmp(name, "unix")) given.path = v;
        else if (!strcmp(name, "mode")) given.mode = v;
        else if (!strcmp(name, "connections")) given.connections = atoi(v);
        else if (!strcmp(name, "seconds")) given.seconds = atof(v);
        else if (!strcmp(name, "grace")) given.grace = atof(v);
        else if (!strcmp(name, "warm")) given.warm = atof(v);
        else if (!strcmp(name, "announce")) given.announce = atoi(v);
        else if (!strcmp(name, "loose")) given.loose = atoi(v);
        else if (!strcmp(name, "once")) given.once = atoi(v);
        else if (!strcmp(name, "chunks")) given.chunks = atol(v);
        else if (!strcmp(name, "rate")) given.rate = atol(v);
        else if (!strcmp(name, "key")) given.key = v;
        else if (!strcmp(name, "model")) given.model = v;
        else if (!strcmp(name, "usage")) given.usage = atoi(v);
        else if (!strcmp(name, "addresses")) given.addresses = atoi(v);
        else if (!strcmp(name, "ramp")) given.ramp = atoi(v);
        else { fprintf(stderr, "unknown option %s\n", argv[i]); exit(2); }
    }
    streaming = !strcmp(given.mode, "streams");
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    conns = calloc((size_t)given.connections, sizeof *conns);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (!conns || poller < 0) die("start");
    for (int i = 0; i < given.connections; i++) conns[i].number = i;
    live = given.connections;
    start_ns = last_ns = now = now_ns();
    warm_ns = start_ns + (uint64_t)(given.warm * 1e9);
    until_ns = start_ns + (uint64_t)(given.seconds * 1e9);
    uint64_t limit = until_ns + (uint64_t)(given.grace * 1e9);
    while (live && (now = now_ns()) < limit) {
        static struct epoll_event ready[512];
        open_more();
        int n = epoll_wait(poller, ready, 512, 50);
        for (int i = 0; i < n; i++) {
            struct conn *c = ready[i].data.ptr;
            if (c->ended) continue;
            if (c->phase == CONNECTING) on_connected(c);
            else on_readable(c);
        }
    }
    for (int i = 0; i < given.connections; i++)
        if (!conns[i].ended) unfinished++;
    report();
    return 0;
}
