/* The load engine: one thread that receives (counts, loses, times, gives feedback), one that sends.
 *
 * Receivers are sockets that have finished ICE and DTLS elsewhere; what is not RTP goes back there.
 * Publishers send synthetic VP8 (30 frames a second, evenly paced) and Opus (50 a second); each packet
 * ends with a mark and the time just before its sending, and the receiver's time is the kernel's.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <srtp2/srtp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_RECEIVERS = 4096, MAX_STREAMS = 64, MAX_PUBLISHERS = 256, BATCH = 16, PACKET = 2048 };
enum { GROUPS = 4, BUCKETS = 100000, BUCKET_NS = 2000, MAX_ARRIVALS = 512 };
enum { AUDIO_BYTES = 120, FRAME_NS = 33333333, AUDIO_NS = 20000000, FEEDBACK_NS = 100000000 };
#define MARK 0x4b4d494d5f554653ULL

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}
static void put16(uint8_t *p, unsigned v) { p[0] = v >> 8, p[1] = v; }
static void put32(uint8_t *p, uint32_t v) { put16(p, v >> 16), put16(p + 2, v); }
static unsigned get16(const uint8_t *p) { return p[0] << 8 | p[1]; }
static uint32_t get32(const uint8_t *p) { return (uint32_t)get16(p) << 16 | get16(p + 2); }

static int make_session(srtp_t *session, int profile, const uint8_t *key, int inbound) {
    static int ready = 0;
    if (!ready) srtp_init(), ready = 1;
    srtp_policy_t policy;
    memset(&policy, 0, sizeof policy);
    if (profile == srtp_profile_aead_aes_128_gcm) {
        srtp_crypto_policy_set_aes_gcm_128_16_auth(&policy.rtp);
        srtp_crypto_policy_set_aes_gcm_128_16_auth(&policy.rtcp);
    } else if (profile == srtp_profile_aead_aes_256_gcm) {
        srtp_crypto_policy_set_aes_gcm_256_16_auth(&policy.rtp);
        srtp_crypto_policy_set_aes_gcm_256_16_auth(&policy.rtcp);
    } else {
        srtp_crypto_policy_set_rtp_default(&policy.rtp);
        srtp_crypto_policy_set_rtcp_default(&policy.rtcp);
    }
    policy.ssrc.type = inbound ? ssrc_any_inbound : ssrc_any_outbound;
    policy.key = (unsigned char *)key;
    policy.window_size = 1024;
    policy.allow_repeat_tx = 1;
    return srtp_create(session, &policy) == srtp_err_status_ok ? 0 : -1;
}

/* Receiving */

typedef struct {
    uint32_t ssrc;
    int64_t highest, base; /* extended sequence numbers */
    uint64_t received, duplicates, marks, seen;
} Stream;

typedef struct {
    int fd, active, group, streams, feedback_id;
    srtp_t in, out;
    int64_t first_ns;
    uint64_t packets, bytes;
    Stream stream[MAX_STREAMS];
    /* transport-wide feedback: arrivals since the last one, by number from `base` on; 0: not there */
    struct sockaddr_in server;
    uint32_t video_ssrc;
    int has_base;
    uint16_t base, count;
    int64_t arrivals[MAX_ARRIVALS], feedback_at;
    uint8_t feedback_number;
} Receiver;

static Receiver *receivers;
static int receiver_count, epoll_fd, upward_fd, sample_every, running;
static uint32_t *histogram[GROUPS];
static uint64_t measured[GROUPS], undecrypted;
static int64_t longest[GROUPS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void load_init(int fd, int every) {
    receivers = calloc(MAX_RECEIVERS, sizeof(Receiver));
    for (int g = 0; g < GROUPS; g++) histogram[g] = calloc(BUCKETS + 1, sizeof(uint32_t));
    upward_fd = fd, sample_every = every, epoll_fd = epoll_create1(0);
}

static int element(const uint8_t *p, int size, int id, uint16_t *value) {
    int at = 12 + 4 * (p[0] & 15);
    if (!(p[0] & 0x10) || at + 4 > size || get16(p + at) != 0xBEDE) return 0;
    int end = at + 4 + 4 * get16(p + at + 2);
    for (at += 4; at + 2 < end && end <= size;) {
        if (!p[at]) { at++; continue; }
        int length = (p[at] & 15) + 1;
        if (p[at] >> 4 == id && length == 2) return *value = get16(p + at + 1), 1;
        at += 1 + length;
    }
    return 0;
}

static void note_arrival(Receiver *r, uint16_t number, int64_t at) {
    if (!r->has_base) r->has_base = 1, r->base = number, r->count = 0, r->feedback_at = at + FEEDBACK_NS;
    uint16_t ahead = number - r->base;
    if (ahead >= MAX_ARRIVALS) return;
    while (r->count <= ahead) r->arrivals[r->count++] = 0;
    r->arrivals[ahead] = at;
}

/* draft-holmer-rmcat-transport-wide-cc-extensions-01, with status vectors of two-bit symbols only */
static void send_feedback(Receiver *r, int64_t now) {
    uint8_t p[PACKET];
    r->feedback_at = now + FEEDBACK_NS;
    int64_t first = 0;
    for (int i = 0; i < r->count && !first; i++) first = r->arrivals[i];
    if (!r->count || !first) return;
    int64_t reference = first / 64000000, ticks = reference * 256;
    p[0] = 0x8f, p[1] = 205;
    put32(p + 4, 1), put32(p + 8, r->video_ssrc), put16(p + 12, r->base), put16(p + 14, r->count);
    put32(p + 16, (uint32_t)(reference & 0xffffff) << 8 | r->feedback_number++);
    int at = 20, deltas = 20 + 2 * ((r->count + 6) / 7);
    for (int i = 0; i < r->count; i += 7, at += 2) {
        unsigned chunk = 0xC000;
        for (int j = 0; j < 7 && i + j < r->count; j++) {
            if (!r->arrivals[i + j]) continue;
            int64_t delta = r->arrivals[i + j] / 250000 - ticks;
            ticks += delta;
            if (delta >= 0 && delta <= 255) chunk |= 1u << (12 - 2 * j), p[deltas++] = delta;
            else chunk |= 2u << (12 - 2 * j), put16(p + deltas, (uint16_t)delta), deltas += 2;
        }
        put16(p + at, chunk);
    }
    while (deltas & 3) p[deltas++] = 0;
    put16(p + 2, deltas / 4 - 1);
    r->base += r->count, r->count = 0;
    if (srtp_protect_rtcp(r->out, p, &deltas) == srtp_err_status_ok)
        (void)!sendto(r->fd, p, deltas, MSG_DONTWAIT, (void *)&r->server, sizeof r->server);
}

static void receive(Receiver *r, int id, uint8_t *p, int size, struct sockaddr_in *from, int64_t at) {
    if (size < 12 || p[0] >> 6 != 2 || (p[1] >= 192 && p[1] <= 223)) { /* not RTP: goes up */
        uint8_t up[PACKET + 12];
        memcpy(up, &id, 4), memcpy(up + 4, &from->sin_addr, 4), memcpy(up + 8, &from->sin_port, 2);
        put16(up + 10, 0), memcpy(up + 12, p, size);
        (void)!send(upward_fd, up, size + 12, MSG_DONTWAIT);
        return;
    }
    uint32_t ssrc = get32(p + 8);
    Stream *s = NULL;
    for (int i = 0; i < r->streams && !s; i++) if (r->stream[i].ssrc == ssrc) s = &r->stream[i];
    uint16_t sequence = get16(p + 2), number;
    if (!s) {
        if (r->streams == MAX_STREAMS) return;
        s = &r->stream[r->streams++];
        memset(s, 0, sizeof *s);
        s->ssrc = ssrc, s->highest = s->base = sequence;
    } else {
        int16_t ahead = sequence - (uint16_t)s->highest;
        if (ahead > 0) s->highest += ahead;
        else s->duplicates++;
    }
    s->received++, s->marks += p[1] >> 7, r->packets++, r->bytes += size;
    if (!r->first_ns) r->first_ns = at;
    if (r->feedback_id && element(p, size, r->feedback_id, &number)) {
        r->video_ssrc = ssrc, r->server = *from;
        note_arrival(r, number, at);
    }
    if (s->seen++ % sample_every) return;
    uint64_t mark;
    int64_t sent;
    if (srtp_unprotect(r->in, p, &size) != srtp_err_status_ok) { undecrypted++; return; }
    if (size < 28) return;
    memcpy(&mark, p + size - 16, 8), memcpy(&sent, p + size - 8, 8);
    if (mark != MARK) return;
    int64_t late = at > sent ? at - sent : 0, bucket = late / BUCKET_NS;
    histogram[r->group][bucket > BUCKETS ? BUCKETS : bucket]++, measured[r->group]++;
    if (late > longest[r->group]) longest[r->group] = late;
}

static void *receive_all(void *unused) {
    static uint8_t data[BATCH][PACKET];
    static char control[BATCH][128];
    struct mmsghdr messages[BATCH];
    struct iovec vectors[BATCH];
    struct sockaddr_in from[BATCH];
    struct epoll_event events[256];
    int64_t feedback_at = 0;
    while (running) {
        int ready = epoll_wait(epoll_fd, events, 256, 20);
        pthread_mutex_lock(&lock);
        for (int e = 0; e < ready; e++) {
            int id = events[e].data.u32;
            Receiver *r = &receivers[id];
            if (!r->active) continue;
            for (int i = 0; i < BATCH; i++) {
                vectors[i] = (struct iovec){data[i], PACKET};
                messages[i].msg_hdr = (struct msghdr){&from[i], sizeof from[i], &vectors[i], 1, control[i], 128, 0};
            }
            int count = recvmmsg(r->fd, messages, BATCH, MSG_DONTWAIT, NULL);
            for (int i = 0; i < count; i++) {
                int64_t at = 0;
                struct msghdr *h = &messages[i].msg_hdr;
                for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c))
                    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS) {
                        struct timespec *t = (void *)CMSG_DATA(c);
                        at = t->tv_sec * 1000000000LL + t->tv_nsec;
                    }
                receive(r, id, data[i], messages[i].msg_len, &from[i], at ? at : now_ns());
            }
        }
        int64_t now = now_ns();
        if (now >= feedback_at) {
            feedback_at = now + 10000000;
            for (int i = 0; i < receiver_count; i++)
                if (receivers[i].active && receivers[i].has_base && now >= receivers[i].feedback_at)
                    send_feedback(&receivers[i], now);
        }
        pthread_mutex_unlock(&lock);
        /* Fewer wake-ups: the client must not be the bottleneck, and the kernel's times stay exact. */
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return NULL;
}

int load_receive(void) {
    pthread_t thread;
    running = 1;
    return pthread_create(&thread, NULL, receive_all, NULL);
}

int load_add_receiver(int fd, int profile, const uint8_t *in_key, const uint8_t *out_key, int group, int feedback_id) {
    int one = 1, bytes = 1 << 20;
    pthread_mutex_lock(&lock);
    int id = receiver_count++;
    Receiver *r = &receivers[id];
    memset(r, 0, sizeof *r);
    r->fd = fd, r->group = group, r->feedback_id = feedback_id;
    r->active = !make_session(&r->in, profile, in_key, 1) && !make_session(&r->out, profile, out_key, 0);
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = id};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    pthread_mutex_unlock(&lock);
    return id;
}

void load_set_group(int id, int group) { receivers[id].group = group; }

void load_stop_reading(int id) {
    pthread_mutex_lock(&lock);
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, receivers[id].fd, NULL);
    receivers[id].active = 0;
    pthread_mutex_unlock(&lock);
}

void load_read_again(int id) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = id};
    pthread_mutex_lock(&lock);
    if (!receivers[id].active) receivers[id].active = !epoll_ctl(epoll_fd, EPOLL_CTL_ADD, receivers[id].fd, &event);
    pthread_mutex_unlock(&lock);
}

void load_reset(void) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < receiver_count; i++) {
        receivers[i].packets = receivers[i].bytes = 0;
        for (int j = 0; j < receivers[i].streams; j++) {
            Stream *s = &receivers[i].stream[j];
            s->received = s->duplicates = s->marks = 0, s->base = s->highest + 1;
        }
    }
    for (int g = 0; g < GROUPS; g++) {
        memset(histogram[g], 0, (BUCKETS + 1) * sizeof(uint32_t));
        measured[g] = longest[g] = 0;
    }
    undecrypted = 0;
    pthread_mutex_unlock(&lock);
}

/* packets, bytes, expected, lost, duplicates, streams, marks, receivers that got something, not decrypted,
 * latencies measured, p50, p95, p99, p999, longest (ns) of one group */
void load_stats(int group, int64_t *out) {
    static const double quantile[4] = {.5, .95, .99, .999};
    pthread_mutex_lock(&lock);
    memset(out, 0, 15 * sizeof *out);
    for (int i = 0; i < receiver_count; i++) {
        Receiver *r = &receivers[i];
        if (r->group != group) continue;
        out[0] += r->packets, out[1] += r->bytes, out[7] += r->packets > 0;
        for (int j = 0; j < r->streams; j++) {
            Stream *s = &r->stream[j];
            int64_t expected = s->highest - s->base + 1, lost = expected - (int64_t)(s->received - s->duplicates);
            out[2] += expected, out[3] += lost > 0 ? lost : 0, out[4] += s->duplicates;
            out[5] += s->received > 0, out[6] += s->marks;
        }
    }
    out[8] = undecrypted, out[9] = measured[group], out[14] = longest[group];
    uint64_t so_far = 0;
    for (int i = 0, q = 0; i <= BUCKETS && q < 4 && measured[group]; i++) {
        so_far += histogram[group][i];
        while (q < 4 && so_far >= quantile[q] * measured[group]) out[10 + q++] = (int64_t)i * BUCKET_NS + BUCKET_NS / 2;
    }
    pthread_mutex_unlock(&lock);
}

int64_t load_now(void) { return now_ns(); }
int64_t load_first_packet(int id) { return receivers[id].first_ns; }
int load_streams(int id, uint32_t *ssrc, uint32_t *highest) {
    pthread_mutex_lock(&lock);
    int count = receivers[id].streams;
    for (int i = 0; i < count; i++) ssrc[i] = receivers[id].stream[i].ssrc, highest[i] = receivers[id].stream[i].highest;
    pthread_mutex_unlock(&lock);
    return count;
}

/* Sending */

typedef struct {
    int fd, video_type, audio_type, mid_id[2], time_id, number_id, frame, part, parts, is_key;
    struct sockaddr_in to;
    srtp_t out;
    uint32_t ssrc[2], timestamp[2]; /* video, audio */
    uint16_t sequence[2], number;
    char mid[2][16];
    int64_t next[2], frame_at, key_at;
    volatile int wants_key;
    double parts_due, parts_a_frame;
    uint64_t packets[2], bytes[2], refused;
    int payload;
} Publisher;

static Publisher publishers[MAX_PUBLISHERS];
static int publisher_count, gap_ns;

int load_add_publisher(int fd, const char *ip, int port, int profile, const uint8_t *key, const uint32_t *ssrc,
                       const int *types, const char *video_mid, const char *audio_mid, const int *ids, double mbit,
                       int payload) {
    Publisher *p = &publishers[publisher_count];
    memset(p, 0, sizeof *p);
    p->fd = fd, p->to.sin_family = AF_INET, p->to.sin_port = htons(port);
    inet_pton(AF_INET, ip, &p->to.sin_addr);
    if (make_session(&p->out, profile, key, 0)) return -1;
    strncpy(p->mid[0], video_mid, 15), strncpy(p->mid[1], audio_mid, 15);
    p->video_type = types[0], p->audio_type = types[1];
    p->mid_id[0] = ids[0], p->mid_id[1] = ids[1], p->time_id = ids[2], p->number_id = ids[3];
    for (int k = 0; k < 2; k++) p->ssrc[k] = ssrc[k], p->sequence[k] = rand() & 0x7fff, p->timestamp[k] = rand();
    p->payload = payload, p->parts_a_frame = mbit * 1e6 / 8 / 30 / payload, p->wants_key = 1;
    /* Publishers do not begin their frames all at once. */
    p->frame_at = p->next[0] = now_ns() + (int64_t)(publisher_count * 7919 % 33) * 1000000;
    p->next[1] = p->next[0] + 5000000;
    return publisher_count++;
}

void load_want_key(int id) { publishers[id].wants_key = 1; }
void load_publisher(int id, int64_t *out) {
    Publisher *p = &publishers[id];
    out[0] = p->packets[0], out[1] = p->bytes[0], out[2] = p->packets[1], out[3] = p->bytes[1];
    out[4] = p->timestamp[0], out[5] = p->timestamp[1], out[6] = p->refused;
}

static uint8_t *extensions(Publisher *p, int audio, uint8_t *at) {
    uint8_t *head = at, *e = at + 4;
    int length = strlen(p->mid[audio]);
    if (p->mid_id[audio] && length) *e++ = p->mid_id[audio] << 4 | (length - 1), memcpy(e, p->mid[audio], length), e += length;
    if (!audio && p->time_id) {
        int64_t t = now_ns();
        uint32_t v = (uint32_t)(t / 1000000000 % 64) << 18 | (uint32_t)(t % 1000000000 * 262144 / 1000000000);
        *e++ = p->time_id << 4 | 2, *e++ = v >> 16, *e++ = v >> 8, *e++ = v;
    }
    if (!audio && p->number_id) *e++ = p->number_id << 4 | 1, put16(e, p->number++), e += 2;
    if (e == head + 4) return head;
    while ((e - head) & 3) *e++ = 0;
    put16(head, 0xBEDE), put16(head + 2, (e - head - 4) / 4);
    return e;
}

static void send_packet(Publisher *p, int audio, int is_first, int is_last) {
    uint8_t b[PACKET];
    memset(b, 0xA5, sizeof b);
    b[0] = 0x80, b[1] = audio ? p->audio_type : p->video_type | is_last << 7;
    put16(b + 2, p->sequence[audio]++), put32(b + 4, p->timestamp[audio]), put32(b + 8, p->ssrc[audio]);
    uint8_t *payload = extensions(p, audio, b + 12), *q = payload;
    int size = audio ? AUDIO_BYTES : p->payload;
    if (payload > b + 12) b[0] |= 0x10;
    if (audio) *q = 0x78;
    else { /* RFC 7741: S, picture id of 15 bits; the frame tag of RFC 6386 */
        *q++ = 0x80 | is_first << 4, *q++ = 0x80, *q++ = 0x80 | (p->frame >> 8 & 0x7f), *q++ = p->frame;
        if (is_first) *q++ = (p->is_key ? 0 : 1) | 1 << 4, *q++ = 0, *q++ = 0;
        if (is_first && p->is_key) memcpy(q, "\x9d\x01\x2a\x80\x02\x68\x01", 7);
    }
    uint64_t mark = MARK;
    int64_t t = now_ns();
    memcpy(payload + size - 16, &mark, 8), memcpy(payload + size - 8, &t, 8);
    int length = payload + size - b;
    if (srtp_protect(p->out, b, &length) || sendto(p->fd, b, length, MSG_DONTWAIT, (void *)&p->to, sizeof p->to) < 0)
        p->refused++;
    p->packets[audio]++, p->bytes[audio] += size;
}

static void send_video(Publisher *p) {
    int64_t now = now_ns();
    if (!p->part) {
        p->parts_due += p->parts_a_frame, p->parts = p->parts_due < 1 ? 1 : (int)p->parts_due;
        p->parts_due -= p->parts;
        p->is_key = (p->wants_key || now - p->key_at > 10000000000) && now - p->key_at > 200000000;
        if (p->is_key) p->key_at = now, p->wants_key = 0;
    }
    send_packet(p, 0, p->part == 0, p->part == p->parts - 1);
    if (++p->part < p->parts) {
        int64_t gap = (int64_t)gap_ns * p->parts > 30000000 ? 30000000 / p->parts : gap_ns;
        p->next[0] += gap;
        return;
    }
    p->part = 0, p->frame = (p->frame + 1) & 0x7fff, p->timestamp[0] += 3000, p->frame_at += FRAME_NS;
    if (p->frame_at < now - 200000000) p->frame_at = now;
    p->next[0] = p->frame_at;
}

static void *send_all(void *unused) {
    while (running) {
        Publisher *next = NULL;
        int audio = 0;
        for (int i = 0; i < publisher_count; i++)
            for (int k = 0; k < 2; k++)
                if (!next || publishers[i].next[k] < next->next[audio]) next = &publishers[i], audio = k;
        int64_t wait = next ? next->next[audio] - now_ns() : 2000000;
        if (wait > 2000) {
            nanosleep(&(struct timespec){0, wait > 20000000 ? 20000000 : wait}, NULL);
            continue;
        }
        if (!audio) { send_video(next); continue; }
        send_packet(next, 1, 1, 1);
        next->timestamp[1] += 960, next->next[1] += AUDIO_NS;
        if (next->next[1] < now_ns() - 200000000) next->next[1] = now_ns();
    }
    return NULL;
}

int load_send(int gap_us) {
    pthread_t thread;
    gap_ns = gap_us * 1000, running = 1;
    return pthread_create(&thread, NULL, send_all, NULL);
}

/* The kernel alone */

typedef struct { int *sockets, count, is_over; } Drain;

/* Read what comes as `receive_all` does, on another core than the one that sends. */
static void *drain(void *given) {
    static char data[BATCH][PACKET];
    Drain *d = given;
    struct epoll_event events[256];
    struct mmsghdr messages[BATCH];
    struct iovec vectors[BATCH];
    int all = epoll_create1(0);
    for (int i = 0; i < d->count; i++) {
        events[0] = (struct epoll_event){.events = EPOLLIN, .data.u32 = i};
        epoll_ctl(all, EPOLL_CTL_ADD, d->sockets[i], events);
    }
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < BATCH; i++) {
        vectors[i] = (struct iovec){data[i], PACKET};
        messages[i].msg_hdr.msg_iov = &vectors[i], messages[i].msg_hdr.msg_iovlen = 1;
    }
    while (!__atomic_load_n(&d->is_over, __ATOMIC_RELAXED)) {
        int ready = epoll_wait(all, events, 256, 20);
        for (int e = 0; e < ready; e++) recvmmsg(d->sockets[events[e].data.u32], messages, BATCH, MSG_DONTWAIT, NULL);
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    close(all);
    return NULL;
}

static void pin(pthread_t thread, int core) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    pthread_setaffinity_np(thread, sizeof one, &one);
}

/* µs of CPU a packet of `sendmmsg` to `count` sockets, with delivery. At once, one round after the other, drained
 * outside the count; or one round every `gap_us`, with all that it takes to wake up for it, to a reader on the other
 * core: so a server sends. */
double load_kernel(const char *ip, int count, int size, int rounds, int gap_us) {
    int sockets[512], bytes = 4 << 20, from = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to[512];
    struct mmsghdr messages[512];
    static char data[PACKET];
    struct iovec vector = {data, size};
    double used = 0;
    Drain reader = {sockets, count, 0};
    pthread_t thread;
    for (int i = 0; i < count; i++) {
        socklen_t length = sizeof to[i];
        sockets[i] = socket(AF_INET, SOCK_DGRAM, 0);
        memset(&to[i], 0, sizeof to[i]), to[i].sin_family = AF_INET, inet_pton(AF_INET, ip, &to[i].sin_addr);
        bind(sockets[i], (void *)&to[i], sizeof to[i]), getsockname(sockets[i], (void *)&to[i], &length);
        setsockopt(sockets[i], SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
        memset(&messages[i], 0, sizeof messages[i]);
        messages[i].msg_hdr = (struct msghdr){&to[i], sizeof to[i], &vector, 1, NULL, 0, 0};
    }
    if (gap_us) pthread_create(&thread, NULL, drain, &reader), pin(thread, 1), pin(pthread_self(), 0);
    for (int k = 0; k < rounds; k++) {
        struct timespec a, b;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
        if (gap_us) nanosleep(&(struct timespec){0, gap_us * 1000}, NULL);
        sendmmsg(from, messages, count, 0);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
        used += (b.tv_sec - a.tv_sec) * 1e6 + (b.tv_nsec - a.tv_nsec) / 1e3;
        for (int i = 0; i < count && !gap_us; i++) while (recv(sockets[i], data, PACKET, MSG_DONTWAIT) > 0) {}
    }
    if (gap_us) __atomic_store_n(&reader.is_over, 1, __ATOMIC_RELAXED), pthread_join(thread, NULL);
    for (int i = 0; i < count; i++) close(sockets[i]);
    close(from);
    return used / rounds / count;
}

void load_stop(void) { running = 0; }
