// What a dashboard of ours may look like as JSON: Grafana's own types (@grafana/schema), panel by panel. The test writes each
// dashboard as a literal of this type beside this file and runs `tsc`; a misspelt or mistyped option does not compile.
import type {
  AnnotationQuery,
  Dashboard,
  DataSourceRef,
  FieldConfig,
  MatcherConfig,
  Panel,
  RowPanel,
  VariableModel,
} from '@grafana/schema';
import type * as bargauge from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as statetimeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as text from '@grafana/schema/dist/esm/raw/composable/text/panelcfg/x/TextPanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// JSON holds an enum's value, where TypeScript wants its member.
type Json<T> = T extends string
  ? `${T}`
  : T extends number
    ? `${T}` extends `${infer N extends number}`
      ? N
      : T
    : T extends object
      ? { [K in keyof T]: Json<T[K]> }
      : T;

// Not part of @grafana/schema: it has no types for Prometheus.
interface PrometheusQuery {
  refId: string;
  datasource: DataSourceRef;
  expr: string;
  legendFormat: string;
  format: 'time_series' | 'table' | 'heatmap';
  editorMode: 'code';
  instant: boolean;
  range: boolean;
}

interface PrometheusAnnotation extends Omit<AnnotationQuery, 'target'> {
  expr: string;
  step: string;
  titleFormat: string;
  textFormat: string;
  tagKeys: string;
}

interface QueryVariable extends Omit<VariableModel, 'query' | 'type'> {
  type: 'query';
  query: { query: string; refId: string };
  definition: string;
}

interface Organize {
  id: 'organize';
  options: {
    excludeByName: Record<string, boolean>;
    indexByName: Record<string, number>;
    renameByName: Record<string, string>;
  };
}

type Override<Custom> = {
  matcher: MatcherConfig;
  properties: Array<{ [K in keyof Custom & string]: { id: `custom.${K}`; value: Custom[K] } }[keyof Custom & string]>;
};

interface Drawn<Type extends string, Options, Custom> extends Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets' | 'transformations'> {
  id: number;
  type: Type;
  title: string;
  description: string;
  gridPos: { h: number; w: number; x: number; y: number };
  datasource: DataSourceRef;
  options: Options;
  targets: PrometheusQuery[];
  transformations?: Organize[];
  fieldConfig: {
    defaults: Omit<FieldConfig, 'custom'> & Required<Pick<FieldConfig, 'unit' | 'thresholds'>> & { custom?: Custom };
    overrides: Array<Override<Custom>>;
  };
}

interface Words extends Omit<Panel, 'type' | 'options'> {
  id: number;
  type: 'text';
  title: string;
  options: text.Options;
}

type Provisioned = Omit<Dashboard, 'panels' | 'annotations' | 'templating'> & {
  uid: string;
  title: string;
  annotations?: { list?: PrometheusAnnotation[] };
  templating?: { list?: QueryVariable[] };
  panels: Array<
    | RowPanel
    | Words
    | Drawn<'stat', stat.Options, never>
    | Drawn<'bargauge', bargauge.Options, never>
    | Drawn<'timeseries', timeseries.Options, timeseries.FieldConfig>
    | Drawn<'state-timeline', statetimeline.Options, statetimeline.FieldConfig>
    | Drawn<'table', table.Options, table.FieldConfig>
    | Drawn<'heatmap', heatmap.Options, heatmap.FieldConfig>
  >;
};

export type ProvisionedDashboard = Json<Provisioned>;
