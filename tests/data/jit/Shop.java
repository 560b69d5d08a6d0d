import java.util.List;

/** Three stages that a loop calls in turn: enough of them that HotSpot inlines none. */
public class Shop {
    interface Stage {
        long run(int size);
    }

    static class Tokenize implements Stage {
        public long run(int size) {
            long words = 0;
            boolean inside = false;
            for (int i = 0; i < size; i++) {
                boolean letter = ((i * 7919) >>> 3) % 5 != 0;
                if (letter && !inside) words++;
                inside = letter;
            }
            return words;
        }
    }

    static class Weigh implements Stage {
        private final int times;

        Weigh(int times) {
            this.times = times;
        }

        public long run(int size) {
            double sum = 0;
            for (int i = 1; i <= size * times / 4; i++) sum += Math.sqrt(i) / (i + 1);
            return (long) sum;
        }
    }

    static class Digest implements Stage {
        public long run(int size) {
            long hash = 17;
            for (int i = 0; i < size; i++) hash = hash * 31 + (hash >>> 7) + i;
            return hash;
        }
    }

    static long checkout(List<Stage> stages, int size) {
        long total = 0;
        for (Stage stage : stages) total += stage.run(size);
        return total;
    }

    public static void main(String[] words) {
        int rounds = Integer.parseInt(words[0]);
        List<Stage> stages = List.of(new Tokenize(), new Weigh(Integer.parseInt(words[1])), new Digest());
        long total = 0;
        for (int round = 0; round < rounds; round++) total += checkout(stages, 400);
        System.out.println(total);
    }
}
