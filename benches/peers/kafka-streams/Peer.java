import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import com.fasterxml.jackson.databind.PropertyNamingStrategies;
import java.io.IOException;
import java.time.Duration;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.WindowStore;

/** The benchmark's workloads on Kafka Streams, written as a user of Kafka Streams would. See README.md. */
public final class Peer {
    /** What the command line says, in its order. */
    private record Arguments(
            String workload,
            String bootstrap,
            String applicationId,
            String stateDir,
            String cacheBytes,
            String impressions,
            String clicks,
            String output) {

        static Arguments of(String[] args) {
            if (args.length < 5 || args.length > 8) {
                throw new IllegalArgumentException("usage: Peer pass|count|join|join_count BOOTSTRAP APPLICATION_ID STATE_DIR "
                        + "CACHE_BYTES|default [IMPRESSIONS [CLICKS [OUTPUT]]]");
            }
            return new Arguments(
                    args[0],
                    args[1],
                    args[2],
                    args[3],
                    args[4],
                    args.length > 5 ? args[5] : "bench-impressions",
                    args.length > 6 ? args[6] : "bench-clicks",
                    args.length > 7 ? args[7] : "bench-out-" + args[2]);
        }
    }

    public static final class Impression {
        public String impressionId;
        public String creativeId;
        public String campaignId;
        public String userId;
        public long timestamp;
        public String website;
        public long costMicros;
    }

    public static final class Click {
        public String clickId;
        public String campaignId;
        public String userId;
        public long timestamp;
    }

    /** An impression and a click of the same user; campaign and time are the click's. */
    public static final class Pair {
        public String impressionId;
        public String clickId;
        public String campaignId;
        public long timestamp;

        static Pair of(Impression impression, Click click) {
            Pair pair = new Pair();
            pair.impressionId = impression.impressionId;
            pair.clickId = click.clickId;
            pair.campaignId = click.campaignId;
            pair.timestamp = click.timestamp;
            return pair;
        }
    }

    private static final ObjectMapper MAPPER =
            new ObjectMapper().setPropertyNamingStrategy(PropertyNamingStrategies.SNAKE_CASE);
    static final Serde<String> STRING = Serdes.String();
    static final Serde<Impression> IMPRESSION = json(Impression.class);
    private static final Serde<Click> CLICK = json(Click.class);
    private static final Serde<Pair> PAIR = json(Pair.class);

    private static final Duration GRACE = Duration.ofMinutes(5);
    private static final Duration COUNT_WINDOW = Duration.ofMinutes(1);
    private static final Duration JOIN_WINDOW = Duration.ofMinutes(30);

    private Peer() {}

    public static void main(String[] argv) throws InterruptedException {
        Arguments args = Arguments.of(argv);
        run(topology(args), settings(args));
    }

    /** Runs until SIGTERM, or until a stream thread dies. */
    static void run(Topology topology, Properties settings) throws InterruptedException {
        KafkaStreams streams = new KafkaStreams(topology, settings);
        AtomicBoolean saidReady = new AtomicBoolean();
        CountDownLatch failed = new CountDownLatch(1);
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.RUNNING && saidReady.compareAndSet(false, true)) {
                System.out.println("ready");
            }
        });
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            failed.countDown();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            long consumed = consumed(streams);
            streams.close(Duration.ofSeconds(30));
            System.out.println("{\"consumed\":" + consumed + "}");
        }));
        streams.start();
        failed.await(); // Without a failure this waits until SIGTERM ends the JVM through the hook.
        System.exit(1);
    }

    private static Properties settings(Arguments args) {
        Properties settings = settings(args.applicationId, args.bootstrap, args.stateDir);
        if (!args.cacheBytes.equals("default")) {
            settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, Long.valueOf(args.cacheBytes));
        }
        return settings;
    }

    static Properties settings(String applicationId, String bootstrap, String stateDir) {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, applicationId);
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, stateDir);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 100);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        return settings;
    }

    private static Topology topology(Arguments args) {
        StreamsBuilder builder = new StreamsBuilder();
        KStream<String, Impression> impressions = builder.stream(args.impressions, Consumed.with(STRING, IMPRESSION));
        switch (args.workload) {
            case "pass" -> impressions
                    .filter((user, impression) -> impression.costMicros % 2 == 0)
                    .to(args.output, Produced.with(STRING, IMPRESSION));
            case "count" -> countPerMinute(impressions).to(args.output, Produced.with(STRING, STRING));
            case "join" -> join(impressions, builder, args).to(args.output, Produced.with(STRING, PAIR));
            case "join_count" -> countPerCampaign(join(impressions, builder, args))
                    .to(args.output, Produced.with(STRING, STRING));
            default -> throw new IllegalArgumentException("unknown workload " + args.workload);
        }
        return builder.build();
    }

    private static KStream<String, String> countPerMinute(KStream<String, Impression> impressions) {
        return impressions
                .groupByKey(Grouped.with(STRING, IMPRESSION))
                .windowedBy(TimeWindows.ofSizeAndGrace(COUNT_WINDOW, GRACE))
                .count(Materialized.<String, Long, WindowStore<Bytes, byte[]>>as("per-minute")
                        .withKeySerde(STRING)
                        .withValueSerde(Serdes.Long()))
                .toStream()
                .map((user, count) ->
                        KeyValue.pair(user.key() + "@" + user.window().start(), Long.toString(count)));
    }

    private static KStream<String, Pair> join(
            KStream<String, Impression> impressions, StreamsBuilder builder, Arguments args) {
        KStream<String, Click> clicks = builder.stream(args.clicks, Consumed.with(STRING, CLICK));
        return impressions.join(
                clicks,
                Pair::of,
                JoinWindows.ofTimeDifferenceAndGrace(JOIN_WINDOW, GRACE),
                StreamJoined.with(STRING, IMPRESSION, CLICK).withName("impression-click").withStoreName("impression-click"));
    }

    private static KStream<String, String> countPerCampaign(KStream<String, Pair> pairs) {
        return pairs.selectKey((user, pair) -> pair.campaignId)
                .groupByKey(Grouped.with("by-campaign", STRING, PAIR))
                .count(Materialized.<String, Long, KeyValueStore<Bytes, byte[]>>as("per-campaign")
                        .withKeySerde(STRING)
                        .withValueSerde(Serdes.Long()))
                .toStream()
                .mapValues(count -> Long.toString(count));
    }

    static <T> Serde<T> json(Class<T> type) {
        ObjectReader reader = MAPPER.readerFor(type);
        ObjectWriter writer = MAPPER.writerFor(type);
        return Serdes.serdeFrom(
                (topic, value) -> {
                    try {
                        return value == null ? null : writer.writeValueAsBytes(value);
                    } catch (JsonProcessingException error) {
                        throw new SerializationException("cannot write a value for " + topic, error);
                    }
                },
                (topic, bytes) -> {
                    try {
                        return bytes == null ? null : reader.readValue(bytes);
                    } catch (IOException error) {
                        throw new SerializationException("cannot read a value of " + topic, error);
                    }
                });
    }

    /** Records that the stream thread's consumer has read, internal topics included. */
    private static long consumed(KafkaStreams streams) {
        return streams.metrics().values().stream()
                .filter(metric -> metric.metricName().name().equals("records-consumed-total"))
                .filter(metric -> !metric.metricName().tags().containsKey("topic"))
                .filter(metric -> !metric.metricName().tags().get("client-id").contains("restore"))
                .mapToLong(metric -> ((Double) metric.metricValue()).longValue())
                .sum();
    }
}
