import java.time.Duration;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.utils.AppInfoParser;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.state.KeyValueStore;

/** The application of {@code cargo xtask bench restart} on Kafka Streams. See README.md. */
public final class Restart {
    /** A row of state: how many impressions a user has had, and the last of them. */
    public static final class Profile {
        public long impressions;
        public Peer.Impression last;

        Profile and(Peer.Impression impression) {
            Profile profile = new Profile();
            profile.impressions = impressions + 1;
            profile.last = impression;
            return profile;
        }
    }

    private static final Serde<Profile> PROFILE = Peer.json(Profile.class);

    private Restart() {}

    public static void main(String[] args) throws InterruptedException {
        if (args.length != 7) {
            throw new IllegalArgumentException(
                    "usage: Restart dynamic|static|static-transactional BOOTSTRAP APPLICATION_ID STATE_DIR INPUT OUTPUT"
                            + " table|join");
        }
        Properties settings = Peer.settings(args[2], args[1], args[3]);
        switch (args[0]) {
            case "dynamic" -> {}
            case "static" -> makeStatic(settings);
            case "static-transactional" -> {
                makeStatic(settings);
                settings.put(transactionalStores(), "true");
            }
            default -> throw new IllegalArgumentException("unknown membership " + args[0]);
        }
        Peer.run(topology(args[4], args[5], args[6]), settings);
    }

    private static void makeStatic(Properties settings) {
        settings.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG), "0");
    }

    /** The setting of KIP-892, under whatever name this version has it. */
    private static String transactionalStores() {
        return StreamsConfig.configDef().names().stream()
                .filter(name -> name.contains("transactional") && name.contains("store"))
                .findFirst()
                .orElseThrow(() -> new IllegalArgumentException(
                        "Kafka Streams " + AppInfoParser.getVersion() + " has no setting for transactional state stores"));
    }

    private static Topology topology(String input, String output, String state) {
        StreamsBuilder builder = new StreamsBuilder();
        KStream<String, Peer.Impression> impressions =
                builder.stream(input, Consumed.with(Peer.STRING, Peer.IMPRESSION));
        KStream<String, String> results = switch (state) {
            case "table" -> counts(impressions);
            case "join" -> pairs(impressions);
            default -> throw new IllegalArgumentException("unknown state " + state);
        };
        results.to(output, Produced.with(Peer.STRING, Peer.STRING));
        return builder.build();
    }

    private static KStream<String, String> counts(KStream<String, Peer.Impression> impressions) {
        return impressions
                .groupByKey(Grouped.with(Peer.STRING, Peer.IMPRESSION))
                .aggregate(
                        Profile::new,
                        (user, impression, profile) -> profile.and(impression),
                        Materialized.<String, Profile, KeyValueStore<Bytes, byte[]>>as("profiles")
                                .withKeySerde(Peer.STRING)
                                .withValueSerde(PROFILE))
                .toStream()
                .mapValues(profile -> Long.toString(profile.impressions));
    }

    private static KStream<String, String> pairs(KStream<String, Peer.Impression> impressions) {
        return impressions.join(
                impressions,
                (left, right) -> left.impressionId + " " + right.impressionId,
                JoinWindows.ofTimeDifferenceWithNoGrace(Duration.ofDays(1)),
                StreamJoined.with(Peer.STRING, Peer.IMPRESSION, Peer.IMPRESSION).withName("pairs").withStoreName("pairs"));
    }
}
